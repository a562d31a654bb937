"""What every room uses: HU windows, schemas of tables, files and places, parameters, progress, locks."""
