"""Which proteins lie where: maps, neighbours and groups of antibodies."""
