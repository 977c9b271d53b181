package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

func newVersion() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "print the version of vpclab and of what it is made of",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			v := versions()
			if jsonOutput() {
				return printJSON(cmd, map[string]any{"version": version, "versions": v})
			}
			fmt.Fprintf(cmd.OutOrStdout(), "vpclab %s (%s, gobgp %s, netlink %s)\n", version, v["go"], v["gobgp"], v["netlink"])
			return nil
		},
	}
}

// versions are the parts that results depend on.
func versions() map[string]string {
	v := map[string]string{"go": runtime.Version()}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	short := map[string]string{
		"github.com/osrg/gobgp/v3":       "gobgp",
		"github.com/vishvananda/netlink": "netlink",
		"github.com/google/nftables":     "nftables",
		"github.com/gopacket/gopacket":   "gopacket",
		"golang.org/x/perf":              "perf",
		"gonum.org/v1/plot":              "plot",
		"github.com/hashicorp/yamux":     "yamux",
	}
	for _, d := range info.Deps {
		if name, ok := short[d.Path]; ok {
			v[name] = d.Version
		}
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			v["commit"] = s.Value
		}
	}
	return v
}
