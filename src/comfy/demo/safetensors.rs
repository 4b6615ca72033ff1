//! Writes the safetensors format: the length of the header (8 bytes, little-endian), the header (JSON: name, type,
//! shape and place of each tensor), the values. See <https://huggingface.co/docs/safetensors>.

use std::io::{self, Write};

use serde_json::{Map, Value, json};

use super::noise::{Noise, bfloat16};
use super::tensors::{Fill, Tensor};

/// Bytes of one bfloat16 value.
const VALUE_BYTES: usize = 2;

/// Standard deviation of [`Fill::Normal`].
const NORMAL_DEVIATION: f32 = 0.02;

/// Writes a whole file of `tensors` in the order given. The same `seed` gives the same bytes, on every machine.
pub(super) fn write(out: &mut impl Write, tensors: &[Tensor], seed: u64) -> io::Result<()> {
    let header = header(tensors);
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(&header)?;

    let mut noise = Noise::new(seed);
    let mut buffer = vec![0; 64 * 1024];
    for tensor in tensors {
        let mut bytes_left = tensor.values() * VALUE_BYTES;
        while bytes_left > 0 {
            let length = bytes_left.min(buffer.len());
            let chunk = &mut buffer[..length];
            match tensor.fill {
                Fill::Constant(value) => {
                    let value = bfloat16(value);
                    chunk
                        .chunks_exact_mut(VALUE_BYTES)
                        .for_each(|place| place.copy_from_slice(&value));
                }
                Fill::Normal => noise.fill(chunk, NORMAL_DEVIATION),
                Fill::FanIn => noise.fill(chunk, fan_in_deviation(tensor)),
            }
            out.write_all(chunk)?;
            bytes_left -= length;
        }
    }
    Ok(())
}

/// The JSON header, padded with spaces to a multiple of 8 bytes so that the values are aligned.
fn header(tensors: &[Tensor]) -> Vec<u8> {
    let mut entries = Map::new();
    entries.insert(
        "__metadata__".to_owned(),
        json!({"format": "pt", "description": "random demo weights of qwen-image-worker"}),
    );
    let mut begin = 0;
    for tensor in tensors {
        let end = begin + tensor.values() * VALUE_BYTES;
        let entry = json!({"dtype": "BF16", "shape": tensor.shape, "data_offsets": [begin, end]});
        entries.insert(tensor.name.to_owned(), entry);
        begin = end;
    }
    let mut header = Value::Object(entries).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    header
}

/// The square root of 1/(values that feed one output); the first axis counts the outputs.
fn fan_in_deviation(tensor: &Tensor) -> f32 {
    let inputs: usize = tensor.shape.iter().skip(1).product();
    (1.0 / inputs as f32).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::comfy::demo::files::FILES;
    use sha2::{Digest, Sha256};
    use std::fmt::Write as _;

    /// Header and values of a file.
    fn parse(file: &[u8]) -> (Map<String, Value>, &[u8]) {
        let (length, rest) = file.split_at(8);
        let length = usize::try_from(u64::from_le_bytes(length.try_into().unwrap())).unwrap();
        assert_eq!(length % 8, 0);
        let (header, values) = rest.split_at(length);
        (serde_json::from_slice(header).unwrap(), values)
    }

    #[test]
    fn the_header_of_every_file_parses_back_and_its_offsets_are_contiguous() {
        for file in FILES {
            let tensors = file.tensors();
            let mut bytes = Vec::new();
            write(&mut bytes, &tensors, file.seed).unwrap();
            let (mut header, values) = parse(&bytes);
            assert_eq!(header.shift_remove("__metadata__").unwrap()["format"], "pt");
            assert_eq!(header.len(), tensors.len(), "{}: a name twice", file.name);

            let mut begin = 0;
            for (tensor, (name, entry)) in tensors.iter().zip(&header) {
                assert_eq!(tensor.name, name);
                assert_eq!(entry["dtype"], "BF16");
                assert_eq!(entry["shape"], json!(tensor.shape));
                let end = begin + 2 * tensor.shape.iter().product::<usize>();
                assert_eq!(entry["data_offsets"], json!([begin, end]), "{name}");
                begin = end;
            }
            assert_eq!(values.len(), begin, "{}", file.name);
        }
    }

    #[test]
    fn a_constant_is_written_as_itself() {
        let tensor = Tensor {
            name: "scale",
            fill: Fill::Constant(4.0),
            shape: &[],
        };
        let mut bytes = Vec::new();
        write(&mut bytes, &[tensor], 0).unwrap();
        assert_eq!(parse(&bytes).1, [0x80, 0x40]);
    }

    #[test]
    fn a_file_has_the_same_bytes_everywhere() {
        // When one of these changes, raise `demo::VERSION`.
        let expected = [
            (
                "qwen_image_vae",
                "7dc02da3189e98e8e64e40c116ddca21d9519cb8b0f9d102f3a215c0db36da5c",
            ),
            (
                "Qwen-Image-Lightning-8steps-V1.0",
                "3aed9c73ef42d9a486e56cc268c99b5143938daeb4cc270a8c910b6415991798",
            ),
        ];
        for (name, hash) in expected {
            let file = FILES.iter().find(|file| file.name == name).unwrap();
            let mut bytes = Vec::new();
            write(&mut bytes, &file.tensors(), file.seed).unwrap();
            let mut found = String::new();
            for byte in Sha256::digest(&bytes) {
                write!(found, "{byte:02x}").unwrap();
            }
            assert_eq!(found, hash, "{name}");
        }
    }

    #[test]
    fn another_seed_gives_other_values() {
        let lora = &FILES.iter().find(|file| file.folder == "loras").unwrap().tensors();
        let (mut one, mut two) = (Vec::new(), Vec::new());
        write(&mut one, lora, 1).unwrap();
        write(&mut two, lora, 2).unwrap();
        assert_ne!(one, two);
    }
}
