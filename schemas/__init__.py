"""What the data is: institutions, topics, events, histories, features, scores, rejections. Pure."""
