package topo

// Fault is something that breaks in a running lab, behind the back of whoever
// controls it: it is not in the plan, and nobody is told. What becomes of it is
// what the lab's routers, hosts and controller make of it by themselves.
// [Plan.CheckFault] says whether a plan has what it names.
type Fault struct {
	// What breaks; in brackets the keys it takes, those that it can do without after the semicolon. All take for. link-down (link): both ends lose carrier. link-one-way (link): what the first node sends to the second is lost, and neither sees it. link-silent (link): what either sends is lost, and neither sees it. degrade (link; rate, delay, loss): a link is no better than that, each way. flap (link, every; times): a link goes down again and again, each time for as long as for says, without it half of every. node-crash (node): a router loses its links, its processes and what its kernel knew of routes and labels, and boots when it is over. host-crash (host): a hypervisor host likewise, with the memories of its VMs and not their disks. site-down (site): all hosts and customer edges of a site. partition (apart; carrier): sites and routers are cut into sets that do not reach each other; routers that are not named go with the nearest that is, of the larger set where two are as near. churn (mtbf, mttr; of, among): components fail at random and are mended, each by itself. kill (process, and node, host or vm): a process is killed; with for it stays away so long (not a daemon of FRR), without it is started again as after any death. bgp-reset (node): the BGP sessions of a router are cut off.
	Kind string `yaml:"fault,omitempty" json:"fault" jsonschema:"enum=link-down,enum=link-one-way,enum=link-silent,enum=degrade,enum=flap,enum=node-crash,enum=host-crash,enum=site-down,enum=partition,enum=churn,enum=kill,enum=bgp-reset" example:"link-down"`
	// Faults: the two nodes of a link, routers or others.
	Link []string `yaml:"link,omitempty" json:"link,omitempty" jsonschema:"format=vpclab-machine" example:"[pe-tx, p1]"`
	// Faults: the router; kill: where its process runs.
	Node string `yaml:"node,omitempty" json:"node,omitempty" jsonschema:"format=vpclab-router" example:"pe-tx"`
	// host-crash, kill: the host, as site/number.
	Host string `yaml:"host,omitempty" json:"host,omitempty" jsonschema:"format=vpclab-host" example:"texas/1"`
	// site-down: the site.
	Site string `yaml:"site,omitempty" json:"site,omitempty" jsonschema:"format=vpclab-site" example:"texas"`
	// kill: the VM whose guest it is.
	VM string `yaml:"vm,omitempty" json:"vm,omitempty" jsonschema:"format=vpclab-machine" example:"shop"`
	// partition: the sets, each of sites and routers. A site stands for its PE.
	Apart [][]string `yaml:"apart,omitempty" json:"apart,omitempty" jsonschema:"minItems=2" example:"[[texas], [illinois, oregon]]"`
	// partition: whether the links between the sets lose carrier. Without it packets are lost there and nobody sees it.
	Carrier bool `yaml:"carrier,omitempty" json:"carrier,omitempty" jsonschema:"default=false" example:"true"`
	// kill: which process. speaker: the router's BGP speaker, or the parent of its FRR daemons; repair: the router's repair process; agent: the host's hypervisor; witness: the host's witness of leases; guest: that of a VM; the others are daemons of FRR.
	Process string `yaml:"process,omitempty" json:"process,omitempty" jsonschema:"enum=speaker,enum=repair,enum=agent,enum=witness,enum=guest,enum=zebra,enum=bgpd,enum=ospfd,enum=ldpd,enum=staticd,enum=bfdd" example:"speaker"`
	// How long it lasts. Without it: until it is undone, or to the end of the trial.
	For Duration `yaml:"for,omitempty" json:"for,omitempty" example:"3s"`
	// flap: from one time that the link goes down to the next.
	Every Duration `yaml:"every,omitempty" json:"every,omitempty" example:"500ms"`
	// flap: how often. Without it: until it is undone.
	Times int `yaml:"times,omitempty" json:"times,omitempty" jsonschema:"minimum=1,maximum=10000" example:"5"`
	// degrade: the most bits a second.
	Rate Rate `yaml:"rate,omitempty" json:"rate,omitempty" example:"10mbit"`
	// degrade: the least delay, one way.
	Delay Duration `yaml:"delay,omitempty" json:"delay,omitempty" example:"50ms"`
	// degrade: the least share of packets lost.
	Loss Percent `yaml:"loss,omitempty" json:"loss,omitempty" example:"2%"`
	// churn: mean time from when a component is whole to its next failure, exponentially distributed.
	MTBF Duration `yaml:"mtbf,omitempty" json:"mtbf,omitempty" example:"60s"`
	// churn: mean time until it is mended, exponentially distributed.
	MTTR Duration `yaml:"mttr,omitempty" json:"mttr,omitempty" example:"3s"`
	// churn: which faults: of links, routers, hosts and sites. Without it: link-down and node-crash.
	Of []string `yaml:"of,omitempty" json:"of,omitempty" jsonschema:"minItems=1,enum=link-down,enum=link-silent,enum=node-crash,enum=host-crash,enum=site-down" example:"[link-down, node-crash]"`
	// churn: what may fail: routers, hosts and sites by name; a link where both its ends may. Without it: all of the backbone's links, PEs and Ps, hosts and sites.
	Among []string `yaml:"among,omitempty" json:"among,omitempty" jsonschema:"minItems=1" example:"[p1, p2]"`
}

// Kinds of faults.
const (
	FaultLinkDown   = "link-down"
	FaultLinkOneWay = "link-one-way"
	FaultLinkSilent = "link-silent"
	FaultDegrade    = "degrade"
	FaultFlap       = "flap"
	FaultNodeCrash  = "node-crash"
	FaultHostCrash  = "host-crash"
	FaultSiteDown   = "site-down"
	FaultPartition  = "partition"
	FaultChurn      = "churn"
	FaultKill       = "kill"
	FaultBGPReset   = "bgp-reset"
)
