"""A matrix times a vector: linearised batch by batch, differentiated twice or traced once a job."""
