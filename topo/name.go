package topo

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// reflector is the name of the route reflector's node.
const reflector = "rr"

func ceName(vpc, site string) string             { return vpc + "-" + site + "-ce" }
func machineName(vpc, site string, m int) string { return fmt.Sprintf("%s-%s-%d", vpc, site, m) }
func hostName(site string, h int) string         { return fmt.Sprintf("%s-h%d", site, h) }
func vrfName(vpc string) string                  { return "vrf-" + vpc }
func vsiName(vpc string) string                  { return "vsi-" + vpc }
func hostBridge(vpc string) string               { return "br-" + vpc }

// devices are how the names of devices begin that come and go with VPCs:
// VRFs, VSIs, LAN segments of hosts, pseudowires. No end of a link is named
// like that, so that a VPC that comes later finds its names free.
var devices = []string{"vrf-", "vsi-", "br-", "pw"}

// ifnames gives out the interface names of one node: unique, at most 15 bytes.
type ifnames map[string]bool

// take gives want, or the nearest to it that is free and fits.
func (names ifnames) take(want string) string {
	if slices.ContainsFunc(devices, func(d string) bool { return strings.HasPrefix(want, d) }) {
		want = "to-" + want
	}
	name := shorten(want, "")
	for i := 2; names[name] || slices.Contains(reservedIfnames, name); i++ {
		name = shorten(want, "-"+strconv.Itoa(i))
	}
	names[name] = true
	return name
}

// shorten makes name+suffix fit an interface name. What gives way is the
// middle: a short last part, mostly a number, tells neighbours apart.
func shorten(name, suffix string) string {
	if len(name)+len(suffix) <= maxIfname {
		return name + suffix
	}
	if i := strings.LastIndexByte(name, '-'); i > 0 && len(name)-i <= 6 && suffix == "" {
		suffix = name[i:]
	}
	return strings.TrimRight(name[:maxIfname-len(suffix)], "-") + suffix
}
