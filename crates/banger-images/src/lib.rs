//! Images and kernels: fetch, verify, unpack, build; stored by digest.
