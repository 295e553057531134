# Every target is one line; what takes more lives in xtask/ (cargo xtask help).
.PHONY: try test lint build bench lab smoke soak chaos power packages

# Build, provision, boot a VM and run a command in it.
try: packages
	cargo xtask try

# Unit tests, then real VMs through the real command line.
test: packages
	cargo xtask test

# Formatting, lints, and the rules of ARCHITECTURE.md.
lint: packages
	cargo xtask lint

# The programs, in target/dist.
build: packages
	cargo xtask build

# Our boot against the raw engine's.
bench: packages
	cargo xtask bench boot

# A host with systemd, KVM and Firecracker, in emulation (cargo xtask lab help).
lab: packages
	cargo xtask lab up

# The promises on that host, by Firecracker.
smoke: packages
	cargo xtask smoke

# One daemon under many clients, garbage and idle connections.
soak: packages
	cargo xtask soak

# System calls refused and processes killed, at sampled points of whatever is asked, here and on that host.
chaos: packages
	cargo xtask chaos

# Power cuts: the daemon's writes recorded on that host, and replayed up to many moments.
power: packages
	cargo xtask power

packages:
	@packaging/host-packages
