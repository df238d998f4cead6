//! Whether the start page is on the screen, judged by its pixels. Pure.

/// Background of the start page, red, green, blue. No desktop, toolbar or error page has it.
pub const BACKGROUND: [u8; 3] = [0x0b, 0x4f, 0x6c];
/// How far a channel may be off: software renderers round.
const TOLERANCE: u8 = 6;
/// Share of the screen, in percent, that must have the background.
pub const SHARE: usize = 30;

/// Counts sampled pixels.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    seen: usize,
    background: usize,
}

impl Sample {
    /// Takes one pixel.
    pub fn add(&mut self, rgb: [u8; 3]) {
        self.seen += 1;
        let close = rgb.iter().zip(BACKGROUND).all(|(a, b)| a.abs_diff(b) <= TOLERANCE);
        self.background += usize::from(close);
    }

    /// Whether enough of the screen is the start page.
    pub fn is_painted(self) -> bool {
        self.seen > 0 && self.background * 100 >= self.seen * SHARE
    }

    /// Share of the background in percent, for the report.
    pub fn percent(self) -> usize {
        (self.background * 100).checked_div(self.seen).unwrap_or(0)
    }
}

/// Picks red, green and blue out of a pixel of a visual with these masks.
pub fn rgb(pixel: u32, masks: [u32; 3]) -> [u8; 3] {
    masks.map(|mask| {
        let value = (pixel & mask) >> mask.trailing_zeros().min(31);
        // Masks of fewer than eight bits (16-bit screens) are scaled up.
        let missing = 8u32.saturating_sub(mask.count_ones());
        u8::try_from((value << missing).min(255)).unwrap_or(255)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(background: usize, other: usize) -> Sample {
        let mut sample = Sample::default();
        (0..background).for_each(|_| sample.add([0x0d, 0x4c, 0x6c]));
        (0..other).for_each(|_| sample.add([0, 0, 0]));
        sample
    }

    #[test]
    fn needs_enough_of_the_right_colour() {
        assert!(!Sample::default().is_painted());
        assert!(!sample(0, 100).is_painted());
        assert!(!sample(29, 71).is_painted());
        assert!(sample(30, 70).is_painted());
        let mut near = Sample::default();
        near.add([BACKGROUND[0] + TOLERANCE + 1, BACKGROUND[1], BACKGROUND[2]]);
        assert!(!near.is_painted());
    }

    #[test]
    fn reads_pixels_by_their_masks() {
        assert_eq!(rgb(0x000b_4f6c, [0xff_0000, 0xff00, 0xff]), BACKGROUND);
        assert_eq!(rgb(0x006c_4f0b, [0xff, 0xff00, 0xff_0000]), BACKGROUND);
        assert_eq!(rgb(0xffff, [0xf800, 0x07e0, 0x001f]), [0xf8, 0xfc, 0xf8]);
    }
}
