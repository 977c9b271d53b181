package main

import "github.com/spf13/cobra"

func newKernel() *cobra.Command { return &cobra.Command{Use: "kernel", Hidden: true} }
