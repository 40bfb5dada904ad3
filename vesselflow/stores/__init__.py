"""HDF5 patch stores at rest: schema, reader, writer, verify, importers, synthetic domains."""
