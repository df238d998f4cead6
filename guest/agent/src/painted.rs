//! Whether the start page, or another one, is on the screen, judged by pixels. Pure.

/// Background of the start page, red, green, blue. No desktop, toolbar or error page has it.
pub const BACKGROUND: [u8; 3] = [0x0b, 0x4f, 0x6c];
/// How far a channel may be off: software renderers round.
const TOLERANCE: u8 = 6;
/// Share of the screen, in percent, that must have the background.
pub const SHARE: usize = 30;
/// Share of the screen, in percent, that another page changes; a cursor or a clock changes less.
const CHANGED: usize = 3;

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

/// Whether a page that was to be shown is on the screen now: the start page is not, and what is there is not what was there
/// before. A page that looks like the one before is one only if the browser was `told` and said yes.
pub fn is_another_page(before: &[[u8; 3]], now: &[[u8; 3]], told: bool) -> bool {
    let mut sample = Sample::default();
    now.iter().for_each(|pixel| sample.add(*pixel));
    let different = before.iter().zip(now).filter(|(before, now)| before != now).count();
    let is_changed = before.len() != now.len() || different * 100 >= now.len() * CHANGED;
    sample.seen > 0 && !sample.is_painted() && (is_changed || told)
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
    fn another_page_is_neither_the_start_page_nor_the_one_before() {
        let start = [BACKGROUND; 100];
        let mut page = [[255, 255, 255]; 100];
        assert!(is_another_page(&start, &page, false));
        assert!(!is_another_page(&start, &start, true), "the start page is still there");
        assert!(!is_another_page(&page, &page, false));
        assert!(is_another_page(&page, &page, true));
        let before = page;
        page[..2].fill([0, 0, 0]);
        assert!(!is_another_page(&before, &page, false), "a cursor");
        page[..3].fill([0, 0, 0]);
        assert!(is_another_page(&before, &page, false));
        assert!(!is_another_page(&start, &[], true), "no screen at all");
    }

    #[test]
    fn reads_pixels_by_their_masks() {
        assert_eq!(rgb(0x000b_4f6c, [0xff_0000, 0xff00, 0xff]), BACKGROUND);
        assert_eq!(rgb(0x006c_4f0b, [0xff, 0xff00, 0xff_0000]), BACKGROUND);
        assert_eq!(rgb(0xffff, [0xf800, 0x07e0, 0x001f]), [0xf8, 0xfc, 0xf8]);
    }
}
