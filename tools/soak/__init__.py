"""Mixed load with faults on a worker and the API for as long as one likes: tools/soak_cluster.py runs it."""
