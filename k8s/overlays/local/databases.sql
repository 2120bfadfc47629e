-- Run once, when the volume is empty; the programs' own database is made by the image.
CREATE DATABASE mlflow;
CREATE DATABASE registry;
