"""Training over institutions that share no rows: sites hand over trees and cells of ten stays or more."""
