"""The work of `bench`, `warm`, `quantize`, `export` and `import`: I/O around workbench/, imported when one runs."""
