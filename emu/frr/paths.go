package frr

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"github.com/vpclab/vpclab/emu/bgp"
)

// Questions to bgpd, and what it answers.

const vpnTable = "show bgp ipv4 vpn json"

func vpnPrefix(p netip.Prefix) string { return "show bgp ipv4 vpn " + p.String() + " json" }

func vrfTable(vrf string) string { return "show bgp vrf " + vrf + " ipv4 unicast json" }

// nextHop is one of a path's.
type nextHop struct {
	IP   netip.Addr `json:"ip"`
	Used bool       `json:"used"`
}

// parseVRF reads the next hops of a VRF's best paths.
func parseVRF(text []byte) (map[netip.Prefix]netip.Addr, error) {
	var t struct {
		Routes map[netip.Prefix][]struct {
			Best     bool      `json:"bestpath"`
			NextHops []nextHop `json:"nexthops"`
		} `json:"routes"`
	}
	if err := json.Unmarshal(text, &t); err != nil {
		return nil, fmt.Errorf("read bgpd's table of a VRF: %w", err)
	}
	out := map[netip.Prefix]netip.Addr{}
	for prefix, paths := range t.Routes {
		for _, p := range paths {
			for _, h := range p.NextHops {
				if p.Best && h.Used {
					out[prefix] = h.IP
				}
			}
		}
	}
	return out, nil
}

// parseVPNPrefixes reads which prefixes the VPN table has, whatever their RD.
func parseVPNPrefixes(text []byte) ([]netip.Prefix, error) {
	var t struct {
		Routes struct {
			ByRD map[string]map[netip.Prefix]json.RawMessage `json:"routeDistinguishers"`
		} `json:"routes"`
	}
	if err := json.Unmarshal(text, &t); err != nil {
		return nil, fmt.Errorf("read bgpd's VPN table: %w", err)
	}
	all := map[netip.Prefix]bool{}
	for _, prefixes := range t.Routes.ByRD {
		for p := range prefixes {
			all[p] = true
		}
	}
	return slices.SortedFunc(maps.Keys(all), func(a, b netip.Prefix) int { return strings.Compare(a.String(), b.String()) }), nil
}

// parseVPN reads the paths of one prefix in the VPN table, by RD.
func parseVPN(text []byte, prefix netip.Prefix) ([]bgp.RouteInfo, error) {
	var byRD map[string]struct {
		Paths []struct {
			Label     uint32 `json:"remoteLabel"`
			Local     bool   `json:"local"`
			Community struct {
				Text string `json:"string"`
			} `json:"extendedCommunity"`
			Best struct {
				Overall bool `json:"overall"`
			} `json:"bestpath"`
			NextHops []nextHop `json:"nexthops"`
			Peer     struct {
				ID netip.Addr `json:"peerId"`
			} `json:"peer"`
		} `json:"paths"`
	}
	if err := json.Unmarshal(text, &byRD); err != nil {
		return nil, fmt.Errorf("read bgpd's VPN routes to %s: %w", prefix, err)
	}
	var out []bgp.RouteInfo
	for _, rd := range slices.Sorted(maps.Keys(byRD)) {
		for _, p := range byRD[rd].Paths {
			r := bgp.RouteInfo{RD: rd, Prefix: prefix, Label: p.Label, Best: p.Best.Overall}
			if !p.Local {
				r.From = p.Peer.ID
			}
			for _, h := range p.NextHops {
				if h.Used {
					r.NextHop = h.IP
				}
			}
			for _, word := range strings.Fields(p.Community.Text) {
				if rt, ok := strings.CutPrefix(word, "RT:"); ok {
					r.RTs = append(r.RTs, rt)
				}
			}
			out = append(out, r)
		}
	}
	return out, nil
}

// adjacency is a change of a BGP session.
type adjacency struct {
	neighbor netip.Addr
	up       bool
	reason   string // why it is down
}

var adjacencyLine = regexp.MustCompile(`%ADJCHANGE: neighbor ([0-9.]+)\S* in vrf \S+ (Up|Down)(?: (.*))?$`)

// parseAdjacency reads a line of bgpd's log, where it is one of `bgp
// log-neighbor-changes`.
func parseAdjacency(line string) (a adjacency, ok bool) {
	m := adjacencyLine.FindStringSubmatch(line)
	if m == nil {
		return a, false
	}
	addr, err := netip.ParseAddr(m[1])
	return adjacency{addr, m[2] == "Up", m[3]}, err == nil
}
