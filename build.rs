//! Packs the script of the documentation's page, so that the binary holds less than a third of it.

use std::fs::File;
use std::io::{Error, Write as _};
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;

fn main() -> Result<(), Error> {
    println!("cargo::rerun-if-changed=build.rs");
    let script = scalar_api_reference::get_asset("scalar.js").ok_or_else(|| Error::other("it has no script"))?;
    let folder = std::env::var_os("OUT_DIR").ok_or_else(|| Error::other("cargo sets OUT_DIR"))?;
    let packed = File::create(Path::new(&folder).join("scalar.js.gz"))?;
    let mut packing = GzEncoder::new(packed, Compression::best());
    packing.write_all(&script)?;
    packing.finish()?.sync_all()
}
