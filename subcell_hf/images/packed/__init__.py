"""Images inside of other files, archives and datasets, as folders of files."""
