"""The pictures of the README, of the templates and of the help, made anew."""
