"""What the files above use and no reader needs to understand the method."""
