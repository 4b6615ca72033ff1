//! Which widgets a node of a class has, in which order, with which sockets: what the page makes of a class in
//! `/object_info` when it creates a node and reads the saved values into it.
//!
//! Values go by position, so order is everything, and a dynamic combo's choice decides how many follow it.

use std::borrow::Cow;

use serde_json::Value;

use super::declared::{Declared, Kind, inputs};
use super::odd;
use super::values::Values;

/// A widget with its value.
#[derive(Debug, Clone)]
pub(super) struct Widget<'a> {
    /// Its name, which is the input's.
    pub name: Cow<'a, str>,
    /// What it takes.
    pub kind: Kind,
    /// The input's options in `/object_info`, with `options` for a list in place of the type; null where it is no input.
    pub declared: Declared<'a>,
    /// The value: saved, or the default.
    pub value: Cow<'a, Value>,
    /// Whether the value was saved.
    pub is_given: bool,
    /// Whether it is in `widgets_values`.
    pub is_saved: bool,
    /// Whether it is in the API graph.
    pub is_sent: bool,
}

/// A socket that a link may feed.
#[derive(Debug, Clone)]
pub(super) struct Socket<'a> {
    /// The input's name.
    pub name: Cow<'a, str>,
    /// The type.
    pub kind: Cow<'a, str>,
    /// Whether it is that of a widget.
    pub is_widget: bool,
}

/// Sockets of a dynamic combo's option that grow in number as they are connected.
#[derive(Debug)]
pub(super) struct Growing<'a> {
    /// What the names begin with: `model.images.image`.
    stem: String,
    /// The names after the dot, where they are not counted.
    names: Option<&'a [Value]>,
    /// The type.
    pub kind: Cow<'a, str>,
    /// How many there are.
    shown: usize,
    /// How many there can be.
    most: usize,
}

/// What a node of a class looks like.
#[derive(Debug, Default)]
pub(super) struct Shape<'a> {
    /// The widgets, in order.
    pub widgets: Vec<Widget<'a>>,
    /// The sockets: the plain ones of the class, then those of its widgets.
    pub sockets: Vec<Socket<'a>>,
    /// Those of dynamic combos that grow.
    pub growing: Vec<Growing<'a>>,
    /// The sockets of widgets, until the plain ones are complete.
    late: Vec<Socket<'a>>,
}

impl<'a> Shape<'a> {
    /// A node of the class `class` with these values.
    pub(super) fn of(class: &str, described: &'a Value, values: &mut Values<'a>) -> Self {
        let mut shape = Self::default();
        if class == odd::CUSTOM_COMBO {
            odd::custom_combo(&mut shape, values);
            return shape;
        }
        let mut has_button = false;
        for (group, inputs) in inputs(described.get("input").unwrap_or(&Value::Null)) {
            for (name, definition) in inputs {
                let declared = Declared::read(definition);
                shape.add(Cow::Borrowed(name), declared, values, None);
                odd::after(class, name, &mut shape, values);
                has_button |= declared.widget() == Some(Kind::Combo)
                    && ["image_upload", "audio_upload", "video_upload"]
                        .iter()
                        .any(|flag| declared.is(flag));
            }
            if group == "required" && has_button {
                shape.extra("upload", Value::from("image"), false, values);
                shape.late.push(Socket {
                    name: Cow::Borrowed("upload"),
                    kind: Cow::Borrowed("UPLOAD"),
                    is_widget: true,
                });
            }
        }
        odd::at_the_end(class, &mut shape, values);
        let late = std::mem::take(&mut shape.late);
        shape.sockets.extend(late);
        shape
    }

    /// A widget that is no input.
    pub(super) fn extra(&mut self, name: &'static str, default: Value, is_sent: bool, values: &mut Values<'a>) {
        let given = values.take(name);
        self.widgets.push(Widget {
            name: Cow::Borrowed(name),
            kind: Kind::Other,
            declared: Declared::default(),
            is_given: given.is_some(),
            value: given.unwrap_or(Cow::Owned(default)),
            is_saved: true,
            is_sent,
        });
    }

    /// Adds an input: widget, socket or both. `within` is the dynamic combo that it belongs to.
    fn add(&mut self, name: Cow<'a, str>, declared: Declared<'a>, values: &mut Values<'a>, within: Option<&str>) {
        let Some(kind) = declared.widget() else {
            if declared.kind == "COMFY_AUTOGROW_V3" {
                self.grow(&name, declared, values, within);
                return;
            }
            let sockets = if within.is_some() {
                &mut self.late
            } else {
                &mut self.sockets
            };
            sockets.push(Socket {
                name,
                kind: declared.socket(),
                is_widget: false,
            });
            return;
        };
        let is_saved = kind != Kind::Comparison;
        let given = if is_saved { values.take(&name) } else { None };
        let is_given = given.is_some();
        let falls_back = matches!(kind, Kind::Combo | Kind::DynamicCombo)
            && given.as_ref().is_some_and(|value| value.is_null())
            && !declared.choices().is_empty();
        let value = match given {
            Some(value) if !falls_back => value,
            Some(_) if kind == Kind::Combo => Cow::Borrowed(&declared.choices()[0]),
            _ => declared.initial(kind),
        };
        self.late.push(Socket {
            name: name.clone(),
            kind: declared.socket(),
            is_widget: true,
        });
        self.widgets.push(Widget {
            name: name.clone(),
            kind,
            declared,
            value: value.clone(),
            is_given,
            is_saved,
            is_sent: true,
        });
        if kind == Kind::DynamicCombo {
            let chosen = declared.branches().find(|(key, _)| *key == &*value);
            let mut none = Values::none();
            // The page has put the values into a combo without a choice before it takes the first.
            let values = if falls_back { &mut none } else { &mut *values };
            let inner = chosen.and_then(|(_, inputs)| inputs).unwrap_or(&Value::Null);
            for (_, inputs) in inputs(inner) {
                for (key, definition) in inputs {
                    let name_of_inner = format!("{name}.{key}");
                    self.add(
                        Cow::Owned(name_of_inner),
                        Declared::read(definition),
                        values,
                        Some(&*name),
                    );
                }
            }
        }
        self.control(&name, kind, declared, values);
    }

    /// What is to become of a number after each run, beside the number.
    fn control(&mut self, name: &str, kind: Kind, declared: Declared<'a>, values: &mut Values<'a>) {
        let option = declared.option("control_after_generate");
        let by_name = option.is_none() && matches!(name, "seed" | "noise_seed") && kind != Kind::Combo;
        let is_number = matches!(kind, Kind::Int | Kind::Float | Kind::Combo);
        if !is_number || !(declared.is("control_after_generate") || by_name) {
            return;
        }
        let name = option.and_then(Value::as_str).unwrap_or("control_after_generate");
        let given = values.take(name);
        self.widgets.push(Widget {
            name: Cow::Borrowed(name),
            kind: Kind::Control,
            declared: Declared::default(),
            is_given: given.is_some(),
            value: given.unwrap_or(Cow::Owned(Value::from("randomize"))),
            is_saved: true,
            is_sent: false,
        });
    }

    /// Adds the sockets of an input that grows: as many as are needed, and one more.
    fn grow(&mut self, name: &str, declared: Declared<'a>, values: &mut Values<'a>, within: Option<&str>) {
        let Some(template) = declared.option("template") else {
            return;
        };
        let number = |field: &str| template.get(field).and_then(Value::as_u64);
        let inner: Vec<(&'a str, &'a Value)> = inputs(template.get("input").unwrap_or(&Value::Null))
            .flat_map(|(_, inputs)| inputs.iter().map(|(key, definition)| (key.as_str(), definition)))
            .collect();
        let names = template.get("names").and_then(Value::as_array).map(Vec::as_slice);
        let prefix = template.get("prefix").and_then(Value::as_str).unwrap_or_default();
        let most = names.map_or_else(|| clamped(number("max"), 100), <[Value]>::len);
        let shown = clamped(number("min"), 1).saturating_add(1).min(most);
        for index in 0..shown {
            for &(key, definition) in &inner {
                let counted = if inner.len() == 1 { prefix } else { key };
                let socket = match names {
                    Some(names) => format!("{name}.{}", names[index].as_str().unwrap_or_default()),
                    None => format!("{name}.{counted}{index}"),
                };
                let declared = Declared::read(definition);
                self.add(Cow::Owned(socket), declared, values, within);
            }
        }
        if let (Some(_), [(_, definition)]) = (within, inner.as_slice()) {
            self.growing.push(Growing {
                stem: match names {
                    Some(_) => format!("{name}."),
                    None => format!("{name}.{prefix}"),
                },
                names,
                kind: Declared::read(definition).socket(),
                shown,
                most,
            });
        }
    }

    /// How many values the page saves for such a node.
    pub(super) fn saved(&self) -> usize {
        self.widgets.iter().filter(|widget| widget.is_saved).count()
    }

    /// Whether a name belongs to a dynamic combo of the node.
    pub(super) fn is_within_combo(&self, name: &str) -> bool {
        let mut combos = self.widgets.iter().filter(|widget| widget.kind == Kind::DynamicCombo);
        combos.any(|combo| {
            name.strip_prefix(&*combo.name)
                .is_some_and(|rest| rest.starts_with('.'))
        })
    }

    /// Lets a connected socket grow out of a dynamic combo's option, as one after the other does when the page reads them.
    /// Gives its type, or `None` where there is no such socket.
    pub(super) fn connect(&mut self, name: &str) -> Option<Cow<'a, str>> {
        self.growing.iter_mut().find_map(|growing| {
            let index = growing.index(name)?;
            if index >= growing.shown {
                return None;
            }
            growing.shown = growing.shown.max((index + 2).min(growing.most));
            Some(growing.kind.clone())
        })
    }
}

impl Growing<'_> {
    fn index(&self, name: &str) -> Option<usize> {
        let rest = name.strip_prefix(self.stem.as_str())?;
        if let Some(names) = self.names {
            return names.iter().position(|name| name.as_str() == Some(rest));
        }
        let index: usize = rest.parse().ok()?;
        (index.to_string() == rest).then_some(index)
    }
}

/// How many sockets a class asks for; no class of `ComfyUI` has more than a hundred.
fn clamped(count: Option<u64>, default: usize) -> usize {
    count.map_or(default, |count| usize::try_from(count).unwrap_or(1000).min(1000))
}
