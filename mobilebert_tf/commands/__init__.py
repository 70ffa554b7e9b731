"""The body of each command, and its flags."""
