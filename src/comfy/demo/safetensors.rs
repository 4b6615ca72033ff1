//! Writes the safetensors format: the length of the header (8 bytes, little-endian), the header (JSON: name, type,
//! shape and place of each tensor), the values. See <https://huggingface.co/docs/safetensors>.

use std::io::{self, Write};

use serde_json::{Map, Value, json};

use super::models::{Fill, Tensor};

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
        entries.insert(tensor.name.clone(), entry);
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

/// Random values that are the same on every machine: integers until the last multiplication, and no function whose
/// rounding differs between mathematics libraries. `SplitMix64` (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014).
struct Noise {
    state: u64,
}

impl Noise {
    fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Fills `bytes` with bfloat16 noise of mean zero and the given standard deviation.
    ///
    /// A value is the sum of four uniform ones, which is close enough to a normal distribution for weights.
    fn fill(&mut self, bytes: &mut [u8], deviation: f32) {
        const MEAN: f32 = 2.0 * 65535.0;
        /// Of the sum of four uniform integers below 2^16: the square root of 4 (2^32 - 1) / 12.
        const SUM_DEVIATION: f32 = 37837.227;
        let scale = deviation / SUM_DEVIATION;
        for value in bytes.chunks_exact_mut(2) {
            let bits = self.next();
            let sum = (bits & 0xffff) + (bits >> 16 & 0xffff) + (bits >> 32 & 0xffff) + (bits >> 48);
            value.copy_from_slice(&bfloat16((sum as f32 - MEAN) * scale));
        }
    }
}

/// The little-endian bytes of the nearest bfloat16 to a finite value: the upper half of the float, rounded to even.
fn bfloat16(value: f32) -> [u8; 2] {
    let bits = value.to_bits();
    let rounded = bits + 0x7fff + (bits >> 16 & 1);
    let [_, _, low, high] = rounded.to_le_bytes();
    [low, high]
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::comfy::demo::family;
    use crate::comfy::demo::models::{FILES, ModelFile, Source};
    use sha2::{Digest, Sha256};

    /// Header and values of a file.
    fn parse(file: &[u8]) -> (Map<String, Value>, &[u8]) {
        let (length, rest) = file.split_at(8);
        let length = usize::try_from(u64::from_le_bytes(length.try_into().unwrap())).unwrap();
        assert_eq!(length % 8, 0);
        let (header, values) = rest.split_at(length);
        (serde_json::from_slice(header).unwrap(), values)
    }

    fn bytes_of(file: &ModelFile) -> Vec<u8> {
        let mut bytes = Vec::new();
        file.write(&mut bytes).unwrap();
        bytes
    }

    /// The header of a file, as JSON.
    pub(in crate::comfy::demo) fn header_of(file: &ModelFile) -> Value {
        Value::Object(parse(&bytes_of(file)).0)
    }

    #[test]
    fn the_header_of_every_file_parses_back_and_its_offsets_are_contiguous() {
        let random = |file: &&ModelFile| !matches!(file.source, Source::Trained(_));
        for file in FILES.iter().chain(family::FILES).filter(random) {
            let tensors = file.tensors();
            let bytes = bytes_of(file);
            let (mut header, values) = parse(&bytes);
            assert_eq!(header.shift_remove("__metadata__").unwrap()["format"], "pt");
            assert_eq!(header.len(), tensors.len(), "{}: a name twice", file.name);

            let mut begin = 0;
            for (tensor, (name, entry)) in tensors.iter().zip(&header) {
                assert_eq!(&tensor.name, name);
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
            name: "scale".to_owned(),
            fill: Fill::Constant(4.0),
            shape: Vec::new(),
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
                "qwen_image_fp8_e4m3fn",
                "a03285fc3606db5d346a8e0f960ea54244ae79f13f282b557ccefb206fb4aa11",
            ),
            (
                "Qwen-Image-Lightning-8steps-V1.0",
                "7db0de0e79cd3f236832f9d6c343bfba20a0b29aed090277f18b0514c1356fb4",
            ),
            (
                "Qwen-Image-Lightning-4steps-V1.0",
                "7040ea7f0542362065b563ff66dbb6bfd45a207cb11b19e0a830fdd9bb8f053e",
            ),
            (
                "qwen_image_vae",
                "2bad968a55048b304bb41e390ffac71f48fa93d917958a2032a07f5bf4d9e006",
            ),
            (
                "qwen_image_edit_fp8_e4m3fn",
                "6b4560e4199beea2f610f0217c3ce3f89363063507308d29c78a1733363c5488",
            ),
            (
                "qwen_2.5_vl_7b_fp8_scaled",
                "bf0f731a5599e9cb2d125c32f36c16b75272c78d9df9b7b177775ebdeb5625e1",
            ),
            (
                "Qwen-Image-Edit-Lightning-4steps-V1.0-bf16",
                "2ec6afc4b04d12ed7344b55aea417740cf42c44efca15e5a69e770954061ab12",
            ),
        ];
        for (name, hash) in expected {
            let file = FILES.iter().find(|file| file.name == name).unwrap();
            assert_eq!(hex::encode(Sha256::digest(bytes_of(file))), hash, "{name}");
        }
    }

    #[test]
    fn another_seed_gives_other_values() {
        let lora = &family::FILES.iter().find(|file| file.seed == 109).unwrap().tensors();
        let (mut one, mut two) = (Vec::new(), Vec::new());
        write(&mut one, lora, 1).unwrap();
        write(&mut two, lora, 2).unwrap();
        assert_ne!(one, two);
    }

    fn float(bytes: [u8; 2]) -> f32 {
        f32::from_bits(u32::from(u16::from_le_bytes(bytes)) << 16)
    }

    #[test]
    fn bfloat16_rounds_to_the_nearest_and_ties_to_even() {
        assert_eq!(bfloat16(1.0), [0x80, 0x3f]);
        assert_eq!(bfloat16(4.0), [0x80, 0x40]);
        assert_eq!(bfloat16(f32::from_bits(0x3f80_8000)), [0x80, 0x3f]);
        assert_eq!(bfloat16(f32::from_bits(0x3f81_8000)), [0x82, 0x3f]);
        assert_eq!(bfloat16(f32::from_bits(0xbf80_8001)), [0x81, 0xbf]);
    }

    #[test]
    fn noise_has_the_mean_and_deviation_asked_for() {
        let mut bytes = vec![0; 2 * 100_000];
        Noise::new(7).fill(&mut bytes, 0.02);
        let values: Vec<f32> = bytes.chunks_exact(2).map(|pair| float([pair[0], pair[1]])).collect();
        let count = values.len() as f32;
        let mean = values.iter().sum::<f32>() / count;
        let deviation = (values.iter().map(|value| (value - mean).powi(2)).sum::<f32>() / count).sqrt();
        assert!(mean.abs() < 0.0005, "mean {mean}");
        assert!((deviation - 0.02).abs() < 0.0005, "deviation {deviation}");
    }

    #[test]
    fn the_first_number_is_the_published_one() {
        // Seed 1234567 in the reference implementation.
        assert_eq!(Noise::new(1_234_567).next(), 6_457_827_717_110_365_317);
    }
}
