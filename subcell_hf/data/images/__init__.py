"""Image files and the tables that travel with them → checked channel planes."""
