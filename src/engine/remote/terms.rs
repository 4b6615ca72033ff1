//! What an engine that makes pictures from prompts can express of a request, and what becomes of the rest: another engine gets the
//! job, or what the list allows is done otherwise, and told.

use serde::Deserialize;

use super::EngineSpec;
use crate::executor::elsewhere::{Prompt, size_of};
use crate::executor::template_of;
use crate::job::{JobRequest, TemplateRequest, Work};
use crate::workflow::limits::SIZE_STEP;
use crate::workflow::{Template, Templates};

/// The logarithm of what two aspect ratios may differ by that look the same: 2 %.
const SAME_ASPECT: f64 = 0.02;

/// What an engine takes.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Terms {
    /// Whether it makes pictures from text alone.
    pub(super) makes: bool,
    /// The most images of an edit; 0: it makes none.
    pub(super) most_images: usize,
    /// The most characters of a prompt.
    pub(super) longest_prompt: usize,
    /// The most characters of a negative prompt; [`None`]: it takes none.
    pub(super) longest_negative: Option<usize>,
    /// The largest seed; [`None`]: it takes none.
    pub(super) largest_seed: Option<u64>,
    /// The fewest and the most steps; [`None`]: it takes none.
    pub(super) steps: Option<(u32, u32)>,
    /// The range of the guidance scale; [`None`]: it takes none.
    pub(super) cfg: Option<(f64, f64)>,
    /// The most pictures of one request.
    pub(super) most_pictures: u32,
    /// How large its pictures are.
    pub(super) sizes: Sizes,
}

/// How large an engine's pictures are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Sizes {
    /// As large as they are asked for, with sides of so many pixels.
    Sides(u32, u32),
    /// One of these.
    Named(&'static [Named]),
}

/// A size that an engine has a name for.
#[derive(Debug, PartialEq)]
pub(super) struct Named {
    /// What it is called there.
    pub(super) name: &'static str,
    /// Its aspect ratio, as requests write it.
    pub(super) ratio: &'static str,
    /// Width and height in pixels, where they can be relied on.
    pub(super) pixels: Option<(u32, u32)>,
}

/// What may be done otherwise than a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Approximate {
    /// The size becomes the nearest that the engine has.
    Size,
    /// The seed is left out, or made smaller.
    Seed,
    /// The number of steps becomes one of the engine's, or is left out.
    Steps,
    /// The guidance scale likewise.
    Cfg,
    /// The negative prompt is left out.
    NegativePrompt,
}

/// A request in an engine's terms.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Fitted {
    pub(super) seed: Option<u64>,
    pub(super) negative_prompt: Option<String>,
    pub(super) steps: Option<u32>,
    pub(super) cfg: Option<f64>,
    pub(super) pictures: Option<u32>,
    /// [`None`]: whatever the engine has for it.
    pub(super) size: Option<Size>,
    /// What was done otherwise than asked for.
    pub(super) warnings: Vec<String>,
}

/// The size of a picture in an engine's terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Size {
    /// Width and height in pixels.
    Pixels(u32, u32),
    /// What it is called there.
    Named(&'static str),
}

impl Terms {
    /// Why the engine cannot do what a request asks for; [`None`]: it can.
    pub(super) fn cannot(&self, spec: &EngineSpec, request: &JobRequest, templates: &Templates) -> Option<String> {
        let Work::Template(asked) = &request.work else {
            return Some("it runs no graphs".to_owned());
        };
        let name = template_of(templates, asked, &request.images);
        // One that does not exist is told of when it is filled.
        let template = templates.get(name)?;
        if spec.templates.is_none() && !is_plain(template) {
            return Some(format!("it makes no pictures like those of the template `{name}`"));
        }
        let number = request.images.len();
        if number > 0 && self.most_images == 0 {
            return Some("it edits no images".to_owned());
        }
        if number == 0 && !self.makes {
            return Some("it makes no pictures from text alone".to_owned());
        }
        if number > self.most_images {
            return Some(format!("it takes {} image(s), not {number}", self.most_images));
        }
        if asked.prompt.chars().count() > self.longest_prompt {
            return Some(format!("it takes prompts of {} characters", self.longest_prompt));
        }
        let may = |approximate| spec.approximates.contains(&approximate);
        self.not_expressed(asked, may).or_else(|| {
            if may(Approximate::Size) {
                return None;
            }
            self.wrong_size(template, asked)
        })
    }

    /// The first field of a request that the engine has no place for, or whose value it does not take.
    fn not_expressed(&self, asked: &TemplateRequest, may: impl Fn(Approximate) -> bool) -> Option<String> {
        let without_place = [
            ("loras", !asked.loras.is_empty()),
            ("mask", asked.mask.is_some()),
            ("control", asked.control.is_some()),
            ("layers", asked.layers.is_some()),
            ("denoise", asked.denoise.is_some()),
            ("megapixels", asked.megapixels.is_some()),
        ];
        if let Some((field, _)) = without_place.into_iter().find(|(_, is_asked)| *is_asked) {
            return Some(format!("it does not take `{field}`"));
        }
        if let Some(number) = asked.batch_size.filter(|number| *number > self.most_pictures) {
            return Some(match self.most_pictures {
                1 => "it does not take `batch_size`".to_owned(),
                most => format!("it makes {most} pictures at once, not {number}"),
            });
        }
        let negative = said(asked.negative_prompt.as_deref()).map(|text| text.chars().count());
        let wrong = [
            outside(
                "negative_prompt",
                negative,
                self.longest_negative.map(|most| (0, most)),
                Approximate::NegativePrompt,
            ),
            outside(
                "seed",
                asked.seed,
                self.largest_seed.map(|most| (0, most)),
                Approximate::Seed,
            ),
            outside("steps", asked.steps, self.steps, Approximate::Steps),
            outside("cfg", asked.cfg, self.cfg, Approximate::Cfg),
        ];
        let mut wrong = wrong.into_iter().flatten();
        wrong.find(|(approximate, _)| !may(*approximate)).map(|(_, why)| why)
    }

    /// Why the engine makes no pictures of the size that is asked for.
    fn wrong_size(&self, template: &Template, asked: &TemplateRequest) -> Option<String> {
        match self.sizes {
            Sizes::Sides(least, most) => {
                let (width, height) = size_of(template, asked)?;
                let is_right = [width, height].iter().all(|side| (least..=most).contains(side));
                (!is_right)
                    .then(|| format!("it makes pictures of {least} to {most} pixels a side, not {width} x {height}"))
            }
            Sizes::Named(sizes) => {
                let is_right = !is_sized(asked) || sizes.iter().any(|size| size.is_of(asked));
                let names: Vec<&str> = sizes.iter().map(|size| size.ratio).collect();
                (!is_right).then(|| {
                    let pixels = if sizes.iter().all(|size| size.pixels.is_none()) {
                        ", and none of a width or a height in pixels"
                    } else {
                        ""
                    };
                    format!("it makes pictures of {} alone{pixels}", names.join(", "))
                })
            }
        }
    }

    /// A request as the engine gets it.
    pub(super) fn fit(&self, engine: &str, prompt: &Prompt) -> Fitted {
        let Prompt {
            asked,
            size,
            is_seed_ours,
        } = prompt;
        let mut fitted = Fitted {
            pictures: asked.batch_size,
            ..Fitted::default()
        };
        let mut warn = |field: &str, what: &str| {
            fitted.warnings.push(format!(
                "engine `{engine}` does not take the `{field}` that was asked for: {what}"
            ));
        };
        fitted.negative_prompt = match (said(asked.negative_prompt.as_deref()), self.longest_negative) {
            (Some(text), Some(most)) if text.chars().count() <= most => Some(text.to_owned()),
            (Some(_), _) => {
                warn("negative_prompt", "it was left out");
                None
            }
            (None, _) => None,
        };
        fitted.seed = asked.seed.zip(self.largest_seed).map(|(seed, most)| {
            if seed > most && !is_seed_ours {
                warn("seed", "a smaller one was sent");
            }
            most.checked_add(1).map_or(seed, |number| seed % number)
        });
        if asked.seed.is_some() && self.largest_seed.is_none() && !is_seed_ours {
            warn("seed", "it was left out");
        }
        fitted.steps = within_range(asked.steps, self.steps, |what| warn("steps", what));
        fitted.cfg = within_range(asked.cfg, self.cfg, |what| warn("cfg", what));
        fitted.size = size.and_then(|pixels| match self.sizes {
            Sizes::Sides(least, most) => {
                let (width, height) = within(pixels, least, most);
                if (width, height) != pixels {
                    warn("size", &format!("{width} x {height} was sent"));
                }
                Some(Size::Pixels(width, height))
            }
            Sizes::Named(sizes) => {
                let exact = sizes.iter().find(|size| size.is_of(asked));
                let size = exact.or_else(|| Some(nearest(sizes, pixels)?.0))?;
                if exact.is_none() && is_sized(asked) {
                    warn("size", &format!("a picture of {} was made", size.ratio));
                }
                Some(Size::Named(size.name))
            }
        });
        fitted
    }
}

impl Named {
    /// Whether a request asks for just this.
    fn is_of(&self, asked: &TemplateRequest) -> bool {
        match (asked.width.zip(asked.height), &asked.aspect_ratio) {
            (Some(pixels), _) => self.pixels == Some(pixels),
            (None, Some(ratio)) if asked.width.is_none() && asked.height.is_none() => ratio.trim() == self.ratio,
            _ => false,
        }
    }

    /// Width over height.
    fn aspect(&self) -> Option<f64> {
        let (width, height) = self.ratio.split_once(':')?;
        Some(width.parse::<f64>().ok()? / height.parse::<f64>().ok()?)
    }
}

/// Whether a template does nothing but what any API of a Qwen-Image model does.
fn is_plain(template: &Template) -> bool {
    template.name().starts_with("qwen-image")
        && !template.has_alpha()
        && !template.needs_mask()
        && template.control_types().is_empty()
}

/// Whether a request asks for a size.
fn is_sized(asked: &TemplateRequest) -> bool {
    asked.width.is_some() || asked.height.is_some() || asked.aspect_ratio.is_some()
}

/// A text that says something.
fn said(text: Option<&str>) -> Option<&str> {
    text.filter(|text| !text.trim().is_empty())
}

/// Why a value is none that an engine takes.
fn outside<T: PartialOrd + std::fmt::Display>(
    field: &str,
    value: Option<T>,
    range: Option<(T, T)>,
    approximate: Approximate,
) -> Option<(Approximate, String)> {
    let value = value?;
    let why = match range {
        None => format!("it does not take `{field}`"),
        Some((least, most)) if value < least || value > most => match approximate {
            Approximate::NegativePrompt => format!("it takes a `{field}` of {most} characters"),
            _ => format!("it takes `{field}` from {least} to {most}"),
        },
        Some(_) => return None,
    };
    Some((approximate, why))
}

/// The same number, or the nearest that an engine takes; `warn` hears of what is not the same.
fn within_range<T: PartialOrd + Copy + std::fmt::Display>(
    asked: Option<T>,
    range: Option<(T, T)>,
    mut warn: impl FnMut(&str),
) -> Option<T> {
    let asked = asked?;
    let Some((least, most)) = range else {
        warn("it was left out");
        return None;
    };
    let end = if asked < least {
        least
    } else if asked > most {
        most
    } else {
        return Some(asked);
    };
    warn(&format!("{end} was sent"));
    Some(end)
}

/// The same size, or the nearest whose sides are long and short enough.
fn within((width, height): (u32, u32), least: u32, most: u32) -> (u32, u32) {
    let (shorter, longer) = (width.min(height), width.max(height));
    let factor = if longer > most {
        f64::from(most) / f64::from(longer)
    } else if shorter < least {
        f64::from(least) / f64::from(shorter)
    } else {
        return (width, height);
    };
    let side = |side: u32| {
        let scaled = f64::from(side) * factor / f64::from(SIZE_STEP);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a side, made smaller or a little larger"
        )]
        let scaled = scaled.round() as u32 * SIZE_STEP;
        scaled.clamp(least, most)
    };
    (side(width), side(height))
}

/// The size whose aspect ratio is the nearest, and whether it is the same as far as one sees.
pub(super) fn nearest(sizes: &'static [Named], (width, height): (u32, u32)) -> Option<(&'static Named, bool)> {
    let aspect = f64::from(width) / f64::from(height);
    let distance = |size: &Named| size.aspect().map_or(f64::INFINITY, |own| (own / aspect).ln().abs());
    let nearest = sizes.iter().min_by(|a, b| distance(a).total_cmp(&distance(b)))?;
    Some((nearest, distance(nearest) < SAME_ASPECT))
}

#[cfg(test)]
#[path = "terms_tests.rs"]
mod tests;
