package topo

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// format is what a string of the file must look like. The schema carries its
// name and pattern (editors go by the pattern); vpclab itself goes by check,
// which says what is wrong.
type format struct {
	noun    string // "a rate such as 465mbit"
	unit    string // for the reference: "rate"
	pattern string
	most    int // characters, 0: not bounded
	check   func(string) error
}

// Lengths of names. A VRF device vrf-<vpc> has to fit the kernel's 15 bytes
// for an interface name; the others are only kept readable.
const (
	maxLab     = 31
	maxRouter  = 31
	maxSite    = 20
	maxVPC     = 11
	maxMachine = maxVPC + maxSite + 7 // <vpc>-<site>-<number>
	maxIfname  = 15
)

const namePattern = `[a-z]([a-z0-9-]*[a-z0-9])?`

// What messages and the reference say was expected.
const (
	nounRate     = "a rate such as 465mbit, 1gbit or 128kbit"
	nounTime     = "a time such as 13.5ms, 250us or 2s"
	nounSize     = "a size such as 256MiB, 1GiB or 4KiB"
	nounPercent  = "a share from 0% to 100%, such as 0.1%"
	nounAddr     = "an IPv4 address such as 10.0.0.1"
	nounPrefix   = "an IPv4 address with its prefix length, such as 192.0.2.1/24"
	nounSubnet   = "an IPv4 subnet such as 10.0.0.0/24"
	nounMAC      = "a MAC address that begins with 02, such as 02:aa:00:00:00:01"
	nounClaim    = "a short name such as C1"
	nounHost     = "the host of a cloud as site/number, such as texas/1"
	nounEndpoint = "a node and its interface, such as left:eth1"
)

var (
	siteName = nameFormat("the name of a site", "site", maxSite)
	nodeName = nameFormat("the name of a node", "name", maxRouter)
)

// formats by the name that the schema knows them by.
var formats = map[string]format{
	"vpclab-rate":     {noun: nounRate, unit: "rate", pattern: `^[0-9]+(\.[0-9]+)?(kbit|mbit|gbit)$`, check: checkBy(ParseRate)},
	"vpclab-time":     {noun: nounTime, unit: "time", pattern: timePattern.String(), check: checkBy(ParseDuration)},
	"vpclab-size":     {noun: nounSize, unit: "size", pattern: `^[0-9]+(\.[0-9]+)?(KiB|MiB|GiB)$`, check: checkBy(ParseSize)},
	"vpclab-percent":  {noun: nounPercent, unit: "percent", pattern: `^[0-9]+(\.[0-9]+)?%$`, check: checkBy(ParsePercent)},
	"vpclab-address":  {noun: nounAddr, unit: "IPv4 address", pattern: `^[0-9]{1,3}(\.[0-9]{1,3}){3}$`, check: checkAddr},
	"vpclab-prefix":   {noun: nounPrefix, unit: "IPv4 address/length", pattern: prefixPattern, check: checkPrefix},
	"vpclab-subnet":   {noun: nounSubnet, unit: "IPv4 subnet", pattern: prefixPattern, check: checkSubnet},
	"vpclab-lab":      nameFormat("the name of a lab", "name", maxLab),
	"vpclab-router":   nameFormat("the name of a router", "router", maxRouter),
	"vpclab-site":     siteName,
	"vpclab-vpc":      nameFormat("the name of a VPC", "VPC", maxVPC),
	"vpclab-node":     nodeName,
	"vpclab-machine":  nameFormat("the name of a machine", "machine", maxMachine),
	"vpclab-reserve":  nameFormat("the name of a reservation", "name", maxRouter),
	"vpclab-word":     nameFormat("a name", "name", 63),
	"vpclab-claim":    {noun: nounClaim, unit: "claim", pattern: claimPattern.String(), check: checkClaim},
	"vpclab-host":     {noun: nounHost, unit: "site/number", pattern: `^` + namePattern + `/[1-9][0-9]{0,3}$`, check: checkHost},
	"vpclab-endpoint": {noun: nounEndpoint, unit: "node:interface", pattern: `^` + namePattern + `:[a-zA-Z][a-zA-Z0-9_-]{0,14}$`, check: checkEndpoint},
	"vpclab-mac":      {noun: nounMAC, unit: "MAC address", pattern: `^02(:[0-9a-fA-F]{2}){5}$`, check: checkMAC},
}

const prefixPattern = `^[0-9]{1,3}(\.[0-9]{1,3}){3}/[0-9]{1,2}$`

func checkBy[T any](parse func(string) (T, error)) func(string) error {
	return func(s string) error {
		_, err := parse(s)
		return err
	}
}

// nameFormat is the form of all names: they become parts of the names of
// namespaces, interfaces and files.
func nameFormat(what, unit string, most int) format {
	pattern := regexp.MustCompile(`^` + namePattern + `$`)
	form := fmt.Sprintf("expected a lower-case letter, then lower-case letters, digits and dashes, at most %d in all", most)
	return format{noun: what, unit: unit, pattern: pattern.String(), most: most, check: func(s string) error {
		switch {
		case !pattern.MatchString(s):
			return &valueError{Msg: fmt.Sprintf("%q cannot be %s; %s", s, what, form), Hint: mendName(s, most, pattern)}
		case len(s) > most:
			return &valueError{Msg: fmt.Sprintf("%q has %d characters, too many for %s; %s", s, len(s), what, form)}
		}
		return nil
	}}
}

// mendName tries the usual slips: capitals, underscores, dots, spaces.
func mendName(s string, most int, pattern *regexp.Regexp) string {
	mended := strings.Trim(strings.NewReplacer("_", "-", ".", "-", " ", "-").Replace(strings.ToLower(s)), "-")
	if pattern.MatchString(mended) && len(mended) <= most {
		return didYouMean(mended)
	}
	return ""
}

func checkAddr(s string) error {
	a, err := netip.ParseAddr(s)
	if err != nil || !a.Is4() {
		return &valueError{Msg: fmt.Sprintf("%q is not an IPv4 address such as 10.0.0.1", s)}
	}
	return nil
}

func checkPrefix(s string) error {
	const form = "expected an IPv4 address with its prefix length, such as 192.0.2.1/24"
	p, err := netip.ParsePrefix(s)
	switch {
	case err != nil && checkAddr(s) == nil:
		return &valueError{Msg: fmt.Sprintf("%q has no prefix length; %s", s, form), Hint: didYouMean(s + "/24")}
	case err != nil:
		return &valueError{Msg: fmt.Sprintf("%q is not an IPv4 address with a prefix length; %s", s, form)}
	case !p.Addr().Is4():
		return &valueError{Msg: fmt.Sprintf("%q is IPv6; %s", s, form)}
	}
	return nil
}

func checkSubnet(s string) error {
	if err := checkPrefix(s); err != nil {
		e := err.(*valueError)
		e.Msg = strings.Replace(e.Msg, nounPrefix, nounSubnet, 1)
		return e
	}
	if p := netip.MustParsePrefix(s); p != p.Masked() {
		return &valueError{Msg: fmt.Sprintf("%q has bits set behind its prefix length; expected a subnet", s), Hint: didYouMean(p.Masked().String())}
	}
	return nil
}

func checkHost(s string) error {
	if _, _, err := splitHost(s); err != nil {
		return err
	}
	return nil
}

// splitHost parses site/number.
func splitHost(s string) (site string, number int, err error) {
	site, digits, ok := strings.Cut(s, "/")
	number, bad := strconv.Atoi(digits)
	if !ok || bad != nil || number < 1 || siteName.check(site) != nil {
		e := &valueError{Msg: fmt.Sprintf("%q is not %s", s, nounHost)}
		if !ok && siteName.check(s) == nil {
			e.Hint = didYouMean(s + "/1")
		}
		return "", 0, e
	}
	return site, number, nil
}

func checkEndpoint(s string) error {
	node, ifname, ok := strings.Cut(s, ":")
	switch {
	case !ok:
		return &valueError{Msg: fmt.Sprintf("%q names no interface; expected %s", s, nounEndpoint), Hint: didYouMean(s + ":eth1")}
	case nodeName.check(node) != nil:
		return nodeName.check(node)
	case len(ifname) > maxIfname:
		return &valueError{Msg: fmt.Sprintf("interface name %q has %d characters; the kernel takes at most %d", ifname, len(ifname), maxIfname)}
	case slices.Contains(reservedIfnames, ifname):
		return &valueError{Msg: fmt.Sprintf("the kernel keeps the interface name %q for itself; expected another, such as eth1", ifname)}
	case !ifnamePattern.MatchString(ifname):
		return &valueError{Msg: fmt.Sprintf("%q is not the name of an interface; expected a letter, then letters, digits, _ and -, such as eth1", ifname)}
	}
	return nil
}

var ifnamePattern = regexp.MustCompile(`^[a-zA-Z][a-zA-Z0-9_-]*$`)

// reservedIfnames are taken in each network namespace: by the loopback, by
// /proc/sys/net/*/conf, and by devices that tunnel modules create.
var reservedIfnames = []string{
	"lo", "all", "default", "tunl0", "sit0", "gre0", "gretap0", "erspan0", "ip6tnl0", "ip6gre0", "ip_vti0", "ip6_vti0",
}

// checkMAC wants 02:…: not multicast, of no manufacturer, and nothing that the
// kernel's MPLS could take for the first byte of an IP header.
func checkMAC(s string) error {
	if !macPattern.MatchString(s) {
		return &valueError{Msg: fmt.Sprintf("%q is not %s", s, nounMAC)}
	}
	if !strings.HasPrefix(s, "02") {
		return &valueError{Msg: fmt.Sprintf("%q does not begin with 02; expected %s", s, nounMAC), Hint: didYouMean("02" + s[2:])}
	}
	return nil
}

var macPattern = regexp.MustCompile(`^[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}$`)

var claimPattern = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9-]{0,14}$`)

func checkClaim(s string) error {
	if !claimPattern.MatchString(s) {
		return &valueError{Msg: fmt.Sprintf("%q is not %s: a letter, then letters, digits and dashes, at most 15 in all", s, nounClaim)}
	}
	return nil
}
