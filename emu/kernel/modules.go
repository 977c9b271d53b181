package kernel

import "github.com/vpclab/vpclab/emu/stock"

// needModules carry the lab itself: without one of them nothing can be built.
var needModules = []string{
	"ipv6",        // GoBGP listens on [::]; its addresses are kept off
	"mpls_router", // label switching
	"mpls_iptunnel",
	"mpls_gso",
	"veth", "bridge", "vrf",
	"sch_netem", "sch_hfsc", "sch_htb",
}

// wantModules take something away when missing: firewall baselines,
// pseudowires, policing, capture of sockets' state.
var wantModules = []string{
	"nf_tables", "nft_ct", "nft_limit", "nft_log",
	"sch_ingress", "cls_flower", "cls_matchall",
	"act_mpls", "act_vlan", "act_mirred", "act_skbedit",
	"dummy", "ifb", "sch_prio", "sch_plug", "sch_tbf", "sch_hfsc", "sch_fq", "tun", "inet_diag", "tcp_diag", "udp_diag",
}

// moduleArgs are given to modules when they are loaded. IPv6 stays without
// addresses in every namespace: neighbour discovery and duplicate address
// detection cost more than the rest of a namespace. The others would make
// devices that nobody asked for.
var moduleArgs = map[string]string{
	"ipv6":  "disable_ipv6=1",
	"dummy": "numdummies=0",
	"ifb":   "numifbs=0",
}

// orderModules lists the files to load for the named modules, with what they are
// given; see (*stock.Modules).Order.
func orderModules(tree *stock.Modules, names []string) (files []stock.Module, missing []string, err error) {
	files, missing, err = tree.Order(names)
	return withArgs(files), missing, err
}

// withArgs sets what the modules are given when they are loaded.
func withArgs(files []stock.Module) []stock.Module {
	for i := range files {
		files[i].Args = moduleArgs[files[i].Name]
	}
	return files
}
