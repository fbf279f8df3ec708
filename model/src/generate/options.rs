//! What can be asked of a model by name: one table, from which the plugin's configuration, the names of generated captures,
//! Wireshark's dialog and the command line's help are made.

/// What the value of an option is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OptionKind {
    /// A folder.
    Folder,
    /// Any text.
    Text,
    /// A whole number from 0.
    Integer,
    /// A number.
    Number,
}

/// An option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OptionSpec {
    /// Its name, as in `key=value`; on the command line with `-` for `_`.
    pub key: &'static str,
    /// What its value is.
    pub kind: OptionKind,
    /// What it is when it is not given; `None` for nothing.
    pub default: Option<&'static str>,
    /// What it does, in a line.
    pub help: &'static str,
    /// Whether it has to be given.
    pub is_required: bool,
    /// Whether it may be given several times.
    pub is_repeatable: bool,
}

const fn option(key: &'static str, kind: OptionKind, default: Option<&'static str>, help: &'static str) -> OptionSpec {
    OptionSpec { key, kind, default, help, is_required: false, is_repeatable: false }
}

/// All options.
pub const OPTIONS: &[OptionSpec] = &[
    OptionSpec { is_required: true, ..option("model", OptionKind::Folder, None, "Checkpoint to generate from") },
    OptionSpec {
        is_repeatable: true,
        ..option(
            "label",
            OptionKind::Text,
            None,
            "Label of the flows; may be given several times, and they take turns [default: all labels of the model]",
        )
    },
    option("flows", OptionKind::Integer, None, "Stop after this many flows"),
    option("packets", OptionKind::Integer, None, "Stop after this many packets"),
    option(
        "stock",
        OptionKind::Integer,
        None,
        "Generate this many flows before the first packet, then render them again with other hosts, ports, numbers and payloads, which is far faster",
    ),
    option(
        "flow_packets_max",
        OptionKind::Integer,
        None,
        "Most packets of a flow [default: twice as many as the longest flow of its label that was learned, at most 10000]",
    ),
    option(
        "flows_per_second",
        OptionKind::Text,
        Some("20"),
        "New flows a second, on average; learned: flows of each label follow one another as those that it was learned from, and labels take no turns",
    ),
    option(
        "concurrent",
        OptionKind::Integer,
        None,
        "Keep this many flows going at once: after the first ones, a new one begins as one ends",
    ),
    option("pps", OptionKind::Number, None, "Packets a second, evenly, in place of their own times"),
    option("seed", OptionKind::Integer, Some("1"), "Same seed, same packets"),
    option(
        "temperature",
        OptionKind::Number,
        Some("1"),
        "Below 1 more usual, above 1 more unusual tokens; 0 takes the likeliest",
    ),
    option(
        "streams",
        OptionKind::Integer,
        Some("64"),
        "Flows decoded in one batch: changes speed and memory, not the flows",
    ),
    option(
        "precision",
        OptionKind::Text,
        Some("auto"),
        "How weights are held: auto, f32, bf16 or int8; less is faster, and at the edges between tokens other ones are drawn",
    ),
];
