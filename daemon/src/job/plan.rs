//! Who generated traffic is between.

use clap::Args;
use std::net::Ipv6Addr;
use wiremamba_model::wire::plan::{Net4, Plan};

use super::ranges;

/// The plan of rendered traffic (codec wire), as arguments of a command. What is not given stays as the model has it.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Addresses (codec wire)")]
pub struct PlanArgs {
    /// IPv4 network of the clients [default: the model's, 10.10.0.0/16 when trained]
    #[arg(long, value_name = "NET")]
    pub client_net: Option<Net4>,
    /// IPv4 network of the servers [default: the model's, 198.18.0.0/15 when trained]
    #[arg(long, value_name = "NET")]
    pub server_net: Option<Net4>,
    /// IPv6 prefix of 64 bits of the clients [default: the model's, 2001:db8:10:: when trained]
    #[arg(long, value_name = "PREFIX")]
    pub client_net6: Option<Ipv6Addr>,
    /// IPv6 prefix of 64 bits of the servers [default: the model's, 2001:db8:18:: when trained]
    #[arg(long, value_name = "PREFIX")]
    pub server_net6: Option<Ipv6Addr>,
    /// MAC of the gateway, behind which all servers are [default: the model's, 02:00:00:00:00:01 when trained]
    #[arg(long, value_name = "MAC", value_parser = ranges::mac)]
    pub gateway_mac: Option<[u8; 6]>,
    /// VLAN id of every frame [default: the model's, none when trained]
    #[arg(long, value_name = "ID", value_parser = clap::value_parser!(u16).range(1..4095))]
    pub vlan: Option<u16>,
    /// Longest IP packet in bytes [default: the model's, 1500 when trained]
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u16).range(576..))]
    pub mtu: Option<u16>,
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
        plan
    }
}
