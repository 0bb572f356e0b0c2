//! What runs on a node: see `kprov::agent`.

fn main() {}
