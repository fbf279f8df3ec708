//! Names of generated captures: `wiremamba:label=web,flows=50`.

/// How such names begin.
pub(crate) const PREFIX: &[u8] = b"wiremamba:";
/// Model of names that name none.
pub(crate) const MODEL_VARIABLE: &str = "WIREMAMBA_MODEL";
/// Flows of names that do not say how much.
const FLOWS: u32 = 100;

/// The configuration of a source that a name asks for; `None` for every other name.
///
/// A program that splits its arguments at commas can be given semicolons. A capture always has an end.
pub(crate) fn config(name: &[u8], model: Option<&str>) -> Option<String> {
    let text = std::str::from_utf8(name.strip_prefix(PREFIX)?).ok()?.replace(';', ",");
    let has = |key: &str| text.split(',').any(|pair| pair.split('=').next() == Some(key));
    let mut pairs: Vec<String> = text.split(',').filter(|pair| !pair.is_empty()).map(str::to_owned).collect();
    if !has("model") {
        pairs.extend(model.map(|model| format!("model={model}")));
    }
    if !has("flows") && !has("packets") {
        pairs.push(format!("flows={FLOWS}"));
    }
    Some(pairs.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_configurations_with_an_end() {
        let config = |name: &str| config(name.as_bytes(), Some("/m"));
        assert_eq!(config("capture.pcap"), None);
        assert_eq!(config("./wiremamba:x"), None);
        assert_eq!(config("wiremamba:").as_deref(), Some("model=/m,flows=100"));
        assert_eq!(config("wiremamba:label=web;packets=5").as_deref(), Some("label=web,packets=5,model=/m"));
        assert_eq!(config("wiremamba:model=/n,flows=2").as_deref(), Some("model=/n,flows=2"));
        assert_eq!(super::config(b"wiremamba:\xff", None), None);
    }
}
