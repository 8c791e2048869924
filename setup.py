"""The package as pip and as colcon (ament_python) install it."""

from pathlib import Path

from setuptools import find_packages, setup

NAME = 'lewm_ros'
HERE = Path(__file__).resolve().parent


def share():
    """(destination, files) pairs: package.xml, the launch files and the tree of YAML."""
    pairs = [('share/ament_index/resource_index/packages', [f'resource/{NAME}']),
             (f'share/{NAME}', ['package.xml'])]
    folders = {}
    for pattern in ('launch/*.launch.py', 'config/**/*'):
        for path in sorted(HERE.glob(pattern)):
            if path.is_file() and '__pycache__' not in path.parts:
                path = path.relative_to(HERE)
                folders.setdefault(f'share/{NAME}/{path.parent}', []).append(str(path))
    return pairs + sorted(folders.items())


setup(
    name=NAME,
    version='0.1.0',
    description='LeWorldModel on ROS 2: a robot learns from its recordings, plans, and notices',
    author='The lewm_ros authors',
    maintainer='The lewm_ros authors',
    maintainer_email='lewm_ros@users.noreply.github.com',
    license='Apache-2.0',
    packages=find_packages(include=['lewm_core', 'lewm_core.*', 'lewm_ros', 'lewm_ros.*']),
    data_files=share(),
    zip_safe=False,
    python_requires='>=3.10',
    # No ROS package and no exact version: a robot's own rclpy and torch serve. The oldest ones are
    # those of Ubuntu 24.04. What `make` installs, version by version, is in requirements.txt.
    install_requires=[
        'h5py>=3.10',
        'hydra-core>=1.3,<1.4',
        'matplotlib>=3.6',
        'mcap>=1.2',
        'numpy>=1.26',
        'opencv-python-headless>=4.6',
        'PyYAML>=6.0',
        'rosbags>=0.10',
        'safetensors>=0.4',
        'scipy>=1.11',
        'setuptools',
        'torch>=2.1',
        'tqdm>=4.66',
        'zstandard>=0.21',
    ],
    extras_require={
        'sim': ['gymnasium>=0.29'],
        'pusht': ['gymnasium>=0.29', 'gym-pusht>=0.1.5'],
        'tensorboard': ['tensorboard'],
        'test': ['pytest', 'gymnasium>=0.29'],
    },
    entry_points={
        'console_scripts': [
            'lewm = lewm_core.cli:main',
            'planner_node = lewm_ros.planner_node:main',
            'surprise_node = lewm_ros.surprise_node:main',
            'train_from_bags = lewm_ros.train_from_bags:main',
            'sim_robot = lewm_ros.sim_robot:main',
            'recorder = lewm_ros.recorder:main',
        ],
    },
)
