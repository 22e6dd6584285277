"""What must hold before any test module is imported."""

import os

# A gRPC that was told to survive forks starts a poller in each child, between fork and exec; there it finds its files
# closed, and now and then takes the child along (grpc/grpc#43055). The tests start many children.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
