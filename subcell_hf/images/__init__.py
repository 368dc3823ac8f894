"""Files of microscopes → `FieldOfView`."""
