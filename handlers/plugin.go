package handlers

import (
	"context"
	"errors"

	plugin "github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"

	"github.com/pgqrs/pgqrsd/handlers/handlerpb"
)

// What both sides of the protocol must agree on.
const (
	// ProtocolVersion is negotiated through go-plugin's VersionedPlugins.
	ProtocolVersion = 1
	// PluginName is the one plugin in the set of ProtocolVersion.
	PluginName = "handler"
	// LifelineEnv names the environment variable that holds the number of a
	// file descriptor, the reading end of a pipe whose writing end only the host
	// has. Nothing is ever written to it: its EOF says that the host is gone,
	// however it went, and the handler process exits.
	LifelineEnv = "PGQRSD_LIFELINE_FD"
	// MaxMessageBytes is how large one gRPC message may be, either way.
	MaxMessageBytes = 64 << 20
)

// Handshake is go-plugin's check that a binary was started as a handler and
// not by hand. It is no security measure.
func Handshake() plugin.HandshakeConfig {
	return plugin.HandshakeConfig{
		MagicCookieKey:   "PGQRSD_HANDLER",
		MagicCookieValue: "d4c1f0a5-pgqrsd-handler",
	}
}

// Plugins is the set of plugins by protocol version, for go-plugin's
// VersionedPlugins on either side. The host passes nil and gets a
// handlerpb.HandlerClient when it dispenses PluginName.
func Plugins(server handlerpb.HandlerServer) map[int]plugin.PluginSet {
	return map[int]plugin.PluginSet{
		ProtocolVersion: {PluginName: &grpcPlugin{server: server}},
	}
}

type grpcPlugin struct {
	plugin.NetRPCUnsupportedPlugin
	server handlerpb.HandlerServer
}

var _ plugin.GRPCPlugin = (*grpcPlugin)(nil)

func (p *grpcPlugin) GRPCServer(_ *plugin.GRPCBroker, s *grpc.Server) error {
	if p.server == nil {
		return errors.New("the host's side of the handler protocol cannot be served")
	}
	handlerpb.RegisterHandlerServer(s, p.server)
	return nil
}

func (p *grpcPlugin) GRPCClient(_ context.Context, _ *plugin.GRPCBroker, conn *grpc.ClientConn) (any, error) {
	return handlerpb.NewHandlerClient(conn), nil
}
