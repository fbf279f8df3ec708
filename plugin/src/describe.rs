//! The keys of the configuration, in C's form.

use std::ffi::CString;
use std::sync::LazyLock;

use wiremamba_abi::{
    OPTION_FOLDER, OPTION_INTEGER, OPTION_NUMBER, OPTION_REPEATABLE, OPTION_REQUIRED, OPTION_TEXT, SourceOption,
};
use wiremamba_model::generate::{OPTIONS, OptionKind};

/// Key, default and help of each option, alive as long as the library.
static TEXTS: LazyLock<Vec<(CString, Option<CString>, CString)>> = LazyLock::new(|| {
    let c = |text: &str| CString::new(text).unwrap_or_default();
    OPTIONS.iter().map(|option| (c(option.key), option.default.map(c), c(option.help))).collect()
});

/// The option at `index`.
pub(crate) fn option(index: usize) -> Option<SourceOption> {
    let (spec, (key, default, help)) = (OPTIONS.get(index)?, TEXTS.get(index)?);
    let flag = |is_set, flag| if is_set { flag } else { 0 };
    Some(SourceOption {
        key: key.as_ptr(),
        default_value: default.as_ref().map_or(std::ptr::null(), |default| default.as_ptr()),
        help: help.as_ptr(),
        kind: match spec.kind {
            OptionKind::Folder => OPTION_FOLDER,
            OptionKind::Text => OPTION_TEXT,
            OptionKind::Integer => OPTION_INTEGER,
            OptionKind::Number => OPTION_NUMBER,
        },
        flags: flag(spec.is_required, OPTION_REQUIRED) | flag(spec.is_repeatable, OPTION_REPEATABLE),
    })
}
