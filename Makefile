# make demo [ARGS='seed=1 robot=push']   the whole way, report in runs/demo
# make test [ARGS='-k planner']          all tests
# make pusht                            gym_pusht/PushT-v0 beside it, for robot=pusht
# make lint | clean
#
# Both make .venv once, with the pinned requirements. PYTHON=… chooses the interpreter (3.10 to
# 3.12), VENV=… another folder; pip's own settings and environment variables are respected.
VENV ?= .venv
PYTHON ?=
ARGS ?=
PYTHONS := $(or $(PYTHON),python3.12 python3.11 python3.10 python3 python)
RUN := $(VENV)/bin/python

# A sourced ROS would shadow the wheels of the environment, in Python and in its libraries.
unexport PYTHONPATH PYTHONHOME AMENT_PREFIX_PATH RMW_IMPLEMENTATION _ROS_WHEELS_BOOTSTRAP_COMPLETE
ifdef ROS_DISTRO
unexport LD_LIBRARY_PATH
endif

.PHONY: demo test lint pusht clean
.DEFAULT_GOAL := demo

demo: $(VENV)/.installed $(if $(findstring robot=pusht,$(ARGS)),$(VENV)/.installed-pusht)
	$(VENV)/bin/lewm demo $(ARGS)

test: $(VENV)/.installed-test
	$(RUN) -m pytest tests $(ARGS)

lint: $(VENV)/.installed-test
	$(RUN) -m flake8

clean:
	rm -rf build dist install log *.egg-info .pytest_cache

$(VENV)/.created:
	@test "$$(uname -sm)" = 'Linux x86_64' || { echo "lewm_ros: the pinned ROS wheels are for \
	Linux x86_64, not $$(uname -sm); build with colcon on a machine with ROS 2" >&2; exit 1; }
	@for python in $(PYTHONS); do \
	  if $$python -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' \
	      2>/dev/null; then \
	    echo "$(VENV): $$($$python --version)"; \
	    $$python -m venv $(VENV) && touch $@ && exit 0; \
	    echo "lewm_ros: $$python cannot make an environment; on Debian and Ubuntu:" \
	      "apt install python3-venv" >&2; exit 1; \
	  fi; \
	done; \
	echo "lewm_ros: Python 3.10, 3.11 or 3.12 is needed and none of '$(PYTHONS)' is one;" \
	  "install one, or name it: make PYTHON=/path/to/python3.12" >&2; exit 1

$(VENV)/.installed: requirements.txt setup.py setup.cfg | $(VENV)/.created
	$(RUN) -m pip install -q --disable-pip-version-check -r requirements.txt
	$(RUN) -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation \
	  --use-pep517 -e .
	@touch $@

# The optional simulator that nobody here wrote.
pusht: $(VENV)/.installed-pusht

$(VENV)/.installed-pusht: requirements-pusht.txt $(VENV)/.installed
	$(RUN) -m pip install -q --disable-pip-version-check --no-deps -r requirements-pusht.txt
	@touch $@

$(VENV)/.installed-test: requirements-test.txt $(VENV)/.installed
	$(RUN) -m pip install -q --disable-pip-version-check -r requirements-test.txt
	@touch $@
