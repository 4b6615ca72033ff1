//! Random values that are the same on every machine: integers until the last multiplication, and no function whose
//! rounding differs between mathematics libraries.

/// `SplitMix64` (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014).
#[derive(Debug, Clone)]
pub(super) struct Noise {
    state: u64,
}

impl Noise {
    pub(super) fn new(seed: u64) -> Self {
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
    pub(super) fn fill(&mut self, bytes: &mut [u8], deviation: f32) {
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
pub(super) fn bfloat16(value: f32) -> [u8; 2] {
    let bits = value.to_bits();
    let rounded = bits + 0x7fff + (bits >> 16 & 1);
    let [_, _, low, high] = rounded.to_le_bytes();
    [low, high]
}

#[cfg(test)]
mod tests {
    use super::*;

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
