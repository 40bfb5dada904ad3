"""HDF5 stores at rest: schema, reader, writer, verify, importers, synthetic domains."""
