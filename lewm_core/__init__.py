"""LeWorldModel: encoder, predictor, planner and surprise. Knows no ROS."""

__version__ = '0.1.0'
