# Each target does all of its own set-up: `make demo` and `make test` work in a fresh clone.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help build demo test bench clean

help:
	@echo 'make build   virtual environment .venv with the release build of flowtap'
	@echo 'make demo    the whole system on recorded packets: task over SSH, tap, deliver, compare accounts'
	@echo 'make test    every check that a change must pass'
	@echo 'make bench   speed, side by side with other programs (QUICK=1: in three minutes)'
	@echo 'make clean   remove what the other targets made'

build:
	@tools/setup build

demo:
	@tools/setup build
	@.venv/bin/flowtap demo

test:
	@tools/setup test
	@.venv/bin/python tools/check all

bench:
	@tools/setup bench
	@.venv/bin/python tools/check bench$(if $(QUICK),_quick)

clean:
	rm -rf .venv target build dist rust/fuzz/target
	find python -name '_flowtap*.so' -delete
