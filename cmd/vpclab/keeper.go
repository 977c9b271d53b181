package main

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/vpclab/vpclab/emu/kernel"
	"github.com/vpclab/vpclab/emu/lab"
	"github.com/vpclab/vpclab/topo"
)

// newKeeper makes the verb that deploy starts in a process of its own, one a
// lab. It is hidden: it talks over file descriptor 3.
func newKeeper() *cobra.Command {
	var file, logFile string
	var memory int64
	cmd := &cobra.Command{
		Use:    "keeper",
		Short:  "keep a deployed lab (started by deploy)",
		Hidden: true,
		Args:   noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			conn := os.NewFile(3, "launcher")
			if _, err := conn.Stat(); err != nil {
				return usageError{fmt.Errorf("keeper is started by vpclab deploy")}
			}
			home, err := lab.DefaultHome()
			if err != nil {
				return err
			}
			s, err := substrate()
			if err != nil {
				return err
			}
			return lab.Keep(cmd.Context(), lab.HoldConfig{
				Home: home, Lab: global.name, Verb: "keeper", File: file, Version: version,
				Kernel: kernelFor(global.name, s, memory), Log: slog.Default(), LogFile: logFile,
			}, conn)
		},
	}
	cmd.Flags().StringVar(&file, "file", "", "scenario, for the record")
	cmd.Flags().StringVar(&logFile, "log-file", "", "log that becomes the lab's")
	cmd.Flags().Int64Var(&memory, "memory", 0, "bytes for a booted kernel")
	return cmd
}

// keeperCommand is the command line of the keeper of a lab.
func keeperCommand(sc *topo.Scenario, s kernel.Substrate) ([]string, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	file := sc.File
	if _, err := os.Stat(file); err == nil { // else it is of the library, or standard input
		if abs, err := filepath.Abs(file); err == nil {
			file = abs
		}
	}
	return []string{
		self, "keeper", "--name", sc.Name, "--kernel", string(s), "--file", file,
		"--memory", strconv.FormatInt(int64(sc.Kernel.Memory), 10), "--log-level", global.logLevel,
	}, nil
}
