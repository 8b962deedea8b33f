//! Names the linker script of the bare image. The launcher that runs on the host needs none.

use std::env;
use std::path::Path;

fn main() {
    let variable = |name: &str| env::var(name).unwrap_or_default();
    println!("cargo:rerun-if-changed=build.rs");
    if variable("CARGO_CFG_TARGET_OS") != "none" {
        return;
    }
    let script = Path::new(&variable("CARGO_MANIFEST_DIR"))
        .join("../linker")
        .join(variable("CARGO_CFG_TARGET_ARCH"))
        .with_extension("ld");
    println!("cargo:rerun-if-changed={}", script.display());
    println!("cargo:rustc-link-arg-bins=-T{}", script.display());
}
