"""Safe writing of files and folders, for both packages."""
