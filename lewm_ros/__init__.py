"""ROS 2 nodes around lewm_core: they know no tensors."""
