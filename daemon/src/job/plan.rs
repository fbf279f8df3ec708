//! Who generated traffic is between: options of a command, and a file with sections for labels.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;
use std::path::Path;

use anyhow::{Context as _, Result};
use clap::Args;
use serde::{Deserialize, Deserializer};
use wiremamba_model::wire::plan::{Net4, Plan};

use super::ranges;

/// The plan of rendered traffic (codec wire), as arguments of a command or a section of a file. What is not given stays as the
/// model has it.
#[derive(Debug, Clone, PartialEq, Default, Args, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[command(next_help_heading = "Addresses (codec wire)")]
pub struct PlanArgs {
    /// IPv4 network of the clients [default: the model's, 10.10.0.0/16 when trained]
    #[arg(long, value_name = "NET")]
    pub client_net: Option<Net4>,
    /// IPv4 network of the servers [default: the model's, 198.18.0.0/15 when trained]
    #[arg(long, value_name = "NET")]
    pub server_net: Option<Net4>,
    /// IPv6 prefix of 64 bits of the clients [default: the model's, 2001:db8:10:: when trained]
    #[arg(long, value_name = "PREFIX", value_parser = ranges::prefix6)]
    #[serde(deserialize_with = "prefix6")]
    pub client_net6: Option<Ipv6Addr>,
    /// IPv6 prefix of 64 bits of the servers [default: the model's, 2001:db8:18:: when trained]
    #[arg(long, value_name = "PREFIX", value_parser = ranges::prefix6)]
    #[serde(deserialize_with = "prefix6")]
    pub server_net6: Option<Ipv6Addr>,
    /// MAC of the gateway, behind which all servers are [default: the model's, 02:00:00:00:00:01 when trained]
    #[arg(long, value_name = "MAC", value_parser = ranges::mac)]
    #[serde(deserialize_with = "mac")]
    pub gateway_mac: Option<[u8; 6]>,
    /// VLAN id of every frame [default: the model's, none when trained]
    #[arg(long, value_name = "ID", value_parser = clap::value_parser!(u16).range(1..=4094))]
    pub vlan: Option<u16>,
    /// Longest IP packet in bytes [default: the model's, 1500 when trained]
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u16).range(576..))]
    pub mtu: Option<u16>,
    /// How many of a hundred clients talk IPv6 over TCP and UDP [default: as each flow was learned]
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(..=100))]
    pub ipv6_percent: Option<u8>,
}

fn mac<'de, D: Deserializer<'de>>(from: D) -> Result<Option<[u8; 6]>, D::Error> {
    ranges::mac(&String::deserialize(from)?).map(Some).map_err(serde::de::Error::custom)
}

fn prefix6<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Ipv6Addr>, D::Error> {
    ranges::prefix6(&String::deserialize(from)?).map(Some).map_err(serde::de::Error::custom)
}

impl PlanArgs {
    /// `plan` with what the arguments change.
    pub fn apply(&self, mut plan: Plan) -> Plan {
        plan.client_net = self.client_net.unwrap_or(plan.client_net);
        plan.server_net = self.server_net.unwrap_or(plan.server_net);
        plan.client_net6 = self.client_net6.unwrap_or(plan.client_net6);
        plan.server_net6 = self.server_net6.unwrap_or(plan.server_net6);
        plan.gateway_mac = self.gateway_mac.unwrap_or(plan.gateway_mac);
        plan.vlan = self.vlan.or(plan.vlan);
        plan.mtu = self.mtu.unwrap_or(plan.mtu);
        plan.ipv6_percent = self.ipv6_percent.or(plan.ipv6_percent);
        plan
    }
}

/// A file of addresses (TOML): what is on top is for all labels, and a section `[label.NAME]` changes it for one.
///
/// ```toml
/// client_net = "10.20.0.0/16"
/// ipv6_percent = 30
///
/// [label.zoom]
/// server_net = "203.0.113.0/24"
/// vlan = 20
/// ```
#[derive(Debug, Clone, PartialEq, Default)]
pub struct PlanFile {
    all: PlanArgs,
    labels: BTreeMap<String, PlanArgs>,
}

impl PlanFile {
    /// Reads a file and checks everything that can be checked without a model.
    ///
    /// # Errors
    /// It cannot be read, is no TOML, has a key that does not exist, or a value outside its range.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read --plan {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("--plan {}", path.display()))
    }

    fn parse(text: &str) -> Result<Self> {
        let mut top: toml::Table = toml::from_str(text)?;
        let sections = match top.remove("label") {
            Some(sections) => sections.try_into::<BTreeMap<String, toml::Table>>().context("label")?,
            None => BTreeMap::new(),
        };
        let section = |name: &str, table: toml::Table| {
            let args: PlanArgs = table.try_into().with_context(|| name.to_owned())?;
            args.apply(Plan::default()).validate().map_err(|why| anyhow::anyhow!("{name}: {why}"))?;
            Ok::<_, anyhow::Error>(args)
        };
        let all = section("for all labels", top)?;
        let labels = sections.into_iter().map(|(label, table)| {
            let args = section(&format!("[label.{label}]"), table)?;
            Ok((label, args))
        });
        Ok(Self { all, labels: labels.collect::<Result<_>>()? })
    }

    /// The plan for all labels and those of some, changed as the file says.
    pub fn apply(self, plan: Plan, labels: BTreeMap<String, Plan>) -> (Plan, BTreeMap<String, Plan>) {
        let all = self.all.apply(plan);
        let mut ret: BTreeMap<_, _> = labels.into_iter().map(|(label, plan)| (label, self.all.apply(plan))).collect();
        for (label, args) in self.labels {
            let plan = args.apply(ret.remove(&label).unwrap_or_else(|| all.clone()));
            ret.insert(label, plan);
        }
        (all, ret)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
        client_net = "10.20.0.0/16"
        gateway_mac = "02:00:00:00:00:07"
        ipv6_percent = 30
        [label.zoom]
        server_net = "203.0.113.0/24"
        vlan = 20
        [label."a b"]
        ipv6_percent = 0
    "#;

    #[test]
    fn a_label_has_what_its_section_says_and_else_what_all_have() {
        let file = PlanFile::parse(FILE).unwrap();
        let (all, labels) = file.apply(Plan { mtu: 1400, ..Plan::default() }, BTreeMap::new());
        assert_eq!((all.client_net.to_string(), all.vlan, all.ipv6_percent), ("10.20.0.0/16".into(), None, Some(30)));
        assert_eq!((all.gateway_mac, all.mtu), ([2, 0, 0, 0, 0, 7], 1400));
        let zoom = &labels["zoom"];
        assert_eq!((zoom.client_net, zoom.vlan, zoom.mtu), (all.client_net, Some(20), 1400));
        assert_eq!(zoom.server_net.to_string(), "203.0.113.0/24");
        assert_eq!((labels["a b"].ipv6_percent, labels["a b"].vlan), (Some(0), None));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_section() {
        for (text, named) in [
            ("client_net = \"10.0.0.0\"", "for all labels"),
            ("clientnet = \"10.0.0.0/8\"", "clientnet"),
            ("[label.dns]\nvlan = 4095", "[label.dns]: vlan is 4095"),
            ("[label.dns]\nmtu = 100", "mtu is 100"),
            ("ipv6_percent = 101", "ipv6_percent is 101"),
            ("gateway_mac = \"x\"", "MAC address"),
            ("label = 3", "label"),
            ("= 3", "TOML"),
        ] {
            let error = format!("{:#}", PlanFile::parse(text).unwrap_err());
            assert!(error.contains(named), "{text}: {error}");
        }
    }
}
