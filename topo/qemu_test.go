package topo

import (
	"strings"
	"testing"
)

// TestQEMUParameters are checked as QEMU would, with line and column.
func TestQEMUParameters(t *testing.T) {
	const file = "name: x\ntopology:\n  backbone: {pe: [pe1]}\n  sites: {texas: {kind: cloud, pe: pe1, hosts: 2}}\nvpcs:\n  acme: {service: vpls, subnet: 10.0.0.0/24, sites: [texas]}\nvms:\n  shop: {vpc: acme, host: texas/1, guest: qemu, scale: mini}\nexperiments:\n  - {kind: migration, vm: shop, to: texas/2, qemu: {"
	sc, err := Parse("x.yml", []byte(file+"max-bandwidth: 1gbit, downtime-limit: 100ms, multifd-channels: 4, multifd-zstd-level: 3, xbzrle-cache-size: 128MiB, cpu-throttle-initial: 40, cpu-throttle-increment: 20, rounds: 2, within: 2m}}\n"))
	if err != nil {
		t.Fatal(err)
	}
	want := QEMU{MaxBandwidth: 1e9, DowntimeLimit: 1e8, MultifdChannels: 4, MultifdZstdLevel: 3, XBZRLECacheSize: 128 << 20, CPUThrottleInitial: 40, CPUThrottleIncrement: 20, Rounds: 2, Within: 120e9}
	if got := *sc.Experiments[0].QEMU; got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	for text, want := range map[string]string{
		"max-bandwidth: 1kbit":      "1kbit is too little; expected at least 64kbit",
		"max-bandwidth: 128MiB":     "max-bandwidth",
		"downtime-limit: 1us":       "1us is out of range; expected 1ms to",
		"downtime-limit: 3000s":     "is out of range; expected 1ms to",
		"multifd-channels: 256":     "multifd-channels",
		"multifd-zstd-level: 21":    "multifd-zstd-level",
		"xbzrle-cache-size: 100MiB": "100MiB is no power of two; expected one of at least 4KiB; did you mean 64MiB?",
		"cpu-throttle-initial: 100": "cpu-throttle-initial",
		"rounds: 0":                 "rounds",
		"max-bandwith: 1gbit":       "max-bandwidth",
		"compression: zstd":         "compression",
	} {
		_, err := Parse("x.yml", []byte(file+text+"}}\n"))
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "x.yml:10:") {
			t.Errorf("%s: got %v, want %q", text, err, want)
		}
	}
	_, err = Parse("x.yml", []byte(strings.Replace(file, "kind: migration, vm: shop, to: texas/2", "kind: audit", 1)+"within: 5s}}\n"))
	if err == nil || !strings.Contains(err.Error(), "only migration takes qemu, and this is audit") {
		t.Errorf("got %v", err)
	}
}
