package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/vpclab/vpclab/emu/lab"
)

// destroyDeadline is how long a lab may take to go in order before it is made
// to, unless --timeout says otherwise.
const destroyDeadline = 60 * time.Second

func newDestroy() *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:     "destroy [SCENARIO]",
		Aliases: []string{"des"},
		Short:   "end a lab and remove everything of it",
		Args:    maxArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				global.topo = args[0]
			}
			if global.timeout == 0 {
				global.timeout = destroyDeadline
			}
			ctx, cancel := limited(cmd)
			defer cancel()
			if all {
				return destroyAll(ctx, cmd)
			}
			home, name, err := theLab()
			if err != nil {
				return err
			}
			return destroyOne(ctx, cmd, home, name)
		},
	}
	cmd.Flags().BoolVarP(&all, "all", "a", false, "every lab of this user")
	return cmd
}

func destroyOne(ctx context.Context, cmd *cobra.Command, home *lab.Home, name string) error {
	began := time.Now()
	if err := home.Destroy(ctx, name); err != nil {
		return err
	}
	fmt.Fprintf(cmd.OutOrStdout(), "lab %s destroyed in %v\n", name, time.Since(began).Round(time.Millisecond))
	return nil
}

func destroyAll(ctx context.Context, cmd *cobra.Command) error {
	home, err := lab.DefaultHome()
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range labNames() {
		errs = append(errs, destroyOne(ctx, cmd, home, name))
	}
	removed, err := home.GC(ctx)
	for _, line := range removed {
		fmt.Fprintln(cmd.OutOrStdout(), "removed", line)
	}
	return errors.Join(append(errs, err)...)
}
