//! What runs a VM: QEMU behind one trait.
