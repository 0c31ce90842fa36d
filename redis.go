package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

const (
	redisDialTimeout = time.Second // one attempt; whoever asks has a better use for more time
	clusterReload    = time.Second // oldest map of a Cluster that is used: nobody reports a node that is gone
	sentinelPort     = "26379"
)

// redisOptions is how to reach Redis: one server, a Cluster, or the master that Sentinels name. One
// of them is set.
type redisOptions struct {
	server   *redis.Options
	cluster  *redis.ClusterOptions
	sentinel *redis.FailoverOptions
}

// openRedis makes the client for an address as REDIS_URL has it. It does not wait for an answer.
func openRedis(address string) (redis.UniversalClient, error) {
	o, err := parseRedisURL(address)
	if err != nil {
		return nil, fmt.Errorf("REDIS_URL %w", err)
	}
	return o.open(), nil
}

// open makes the client.
func (o redisOptions) open() redis.UniversalClient {
	switch {
	case o.cluster != nil:
		return redis.NewClusterClient(o.cluster)
	case o.sentinel != nil:
		return redis.NewFailoverClient(o.sentinel)
	}
	return redis.NewClient(o.server)
}

// redisTraffic counts commands to Redis, and those that failed: an answer that there is nothing, or that
// a script must be sent whole, is none of these, nor that somebody did not wait for it.
type redisTraffic struct{ commands, failures atomic.Int64 }

func (t *redisTraffic) note(commands ...redis.Cmder) {
	t.commands.Add(int64(len(commands)))
	for _, c := range commands {
		if err := c.Err(); err != nil && !errors.Is(err, redis.Nil) && !errors.Is(err, context.Canceled) && !redis.HasErrorPrefix(err, "NOSCRIPT") {
			t.failures.Add(1)
		}
	}
}

func (t *redisTraffic) DialHook(next redis.DialHook) redis.DialHook { return next }

func (t *redisTraffic) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, c redis.Cmder) error {
		err := next(ctx, c)
		t.note(c)
		return err
	}
}

func (t *redisTraffic) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, list []redis.Cmder) error {
		err := next(ctx, list)
		t.note(list...)
		return err
	}
}

// openImpatientRedis makes a client that gives a command up after limit and does not repeat it, and
// that has its few connections from the start, so that a new one tells of a server begun anew.
func openImpatientRedis(address string, limit time.Duration, onConnect func(context.Context, *redis.Conn) error) (redis.UniversalClient, error) {
	o, err := parseRedisURL(address)
	if err != nil {
		return nil, fmt.Errorf("REDIS_URL %w", err)
	}
	const connections = 4
	switch {
	case o.cluster != nil:
		c := o.cluster
		c.MaxRetries, c.ReadTimeout, c.WriteTimeout, c.OnConnect = -1, limit, limit, onConnect
		c.PoolSize, c.MinIdleConns, c.ConnMaxIdleTime = connections, connections, -1
	case o.sentinel != nil:
		c := o.sentinel
		c.MaxRetries, c.ReadTimeout, c.WriteTimeout, c.OnConnect = -1, limit, limit, onConnect
		c.PoolSize, c.MinIdleConns, c.ConnMaxIdleTime = connections, connections, -1
	default:
		c := o.server
		c.MaxRetries, c.ReadTimeout, c.WriteTimeout, c.OnConnect = -1, limit, limit, onConnect
		c.PoolSize, c.MinIdleConns, c.ConnMaxIdleTime = connections, connections, -1
	}
	return o.open(), nil
}

// Rules of REDIS_URL. The library's own errors are not shown: they quote what they could not read.
var (
	errRedisURL = errors.New("must be a Redis address such as redis://host:6379/0, the addresses of a Cluster with commas between them, " +
		"or redis+sentinel://host:26379,host2:26379/master")
	errClusterURL   = errors.New("must have addresses that differ only in host and port: they are nodes of one Cluster")
	errClusterDB    = errors.New("must not name a database other than 0: a Cluster has no other")
	errSentinelName = errors.New("must end with the name that the Sentinels have for the master: redis+sentinel://host:26379/master")
	errReplicaReads = errors.New("must not ask for reads from replicas, which lag behind")
)

// parseRedisURL reads an address in one of these forms, each also with rediss for TLS, and with the
// options of go-redis after a question mark:
//
//	redis://user:password@host:6379/0
//	unix:///path/redis.sock?db=0
//	redis://user:password@host:6379,redis://user:password@host2:6379          nodes of a Cluster
//	redis+sentinel://user:password@host:26379,host2:26379/master/0            Sentinels
//
// TLS takes the first host's name for that of every node's certificate.
func parseRedisURL(text string) (o redisOptions, err error) {
	scheme, rest, _ := strings.Cut(text, "://")
	addresses := strings.Split(text, ",redis") // a password may have a comma too
	switch {
	case scheme == "redis+sentinel" || scheme == "rediss+sentinel":
		o.sentinel, err = parseSentinelURL(strings.TrimSuffix(scheme, "+sentinel"), rest)
	case len(addresses) > 1:
		for i := range addresses[1:] {
			addresses[i+1] = "redis" + addresses[i+1]
		}
		o.cluster, err = parseClusterURL(addresses)
	default:
		if o.server, err = redis.ParseURL(text); err != nil || o.server.Network == "tcp" && strings.Contains(o.server.Addr, ",") {
			return o, errRedisURL
		}
		o.server.ContextTimeoutEnabled = true
		o.server.DialTimeout = redisDialTimeout
		o.server.DialerRetries = 1
		o.server.MaintNotificationsConfig = noMaintNotifications()
	}
	return o, err
}

// noMaintNotifications turns off a vendor's extension that costs a DNS lookup.
func noMaintNotifications() *maintnotifications.Config {
	return &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
}

func parseClusterURL(addresses []string) (*redis.ClusterOptions, error) {
	var nodes []string
	var first url.URL // without its host
	for i, address := range addresses {
		node, err := redis.ParseURL(address) // which also refuses options to read from replicas
		if err != nil {
			return nil, errRedisURL
		}
		if node.DB != 0 {
			return nil, errClusterDB
		}
		nodes = append(nodes, node.Addr)
		u, err := url.Parse(address)
		if err != nil {
			return nil, errRedisURL
		}
		u.Host = ""
		if i == 0 {
			first = *u
		} else if u.String() != first.String() {
			return nil, errClusterURL
		}
	}
	o, err := redis.ParseClusterURL(addresses[0])
	if err != nil {
		return nil, errRedisURL
	}
	o.Addrs = nodes
	o.ClusterStateReloadInterval = clusterReload
	o.ContextTimeoutEnabled = true
	o.DialTimeout = redisDialTimeout
	o.DialerRetries = 1
	o.MaintNotificationsConfig = noMaintNotifications()
	return o, nil
}

// parseSentinelURL reads what follows redis+sentinel://. User and password are those of Redis; the
// Sentinels' own are the options sentinel_username and sentinel_password.
func parseSentinelURL(scheme, rest string) (*redis.FailoverOptions, error) {
	rest, options, _ := strings.Cut(rest, "?")
	authority, path, _ := strings.Cut(rest, "/")
	master, db, _ := strings.Cut(path, "/")
	if master == "" {
		return nil, errSentinelName
	}
	query, err := url.ParseQuery(options)
	if err != nil {
		return nil, errRedisURL
	}
	at := strings.LastIndexByte(authority, '@') + 1
	var hosts []string
	for host := range strings.SplitSeq(authority[at:], ",") {
		u, err := url.Parse(scheme + "://" + authority[:at] + host)
		if err != nil || u.Hostname() == "" {
			return nil, errRedisURL
		}
		hosts = append(hosts, net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), sentinelPort)))
		if password, _ := u.User.Password(); u.User != nil {
			query.Set("username", u.User.Username())
			query.Set("password", password)
		}
	}
	// The library's form has the first Sentinel where a server stands, and all else in the query.
	u := url.URL{Scheme: scheme, Host: hosts[0], Path: "/" + db}
	u.User = url.UserPassword(query.Get("sentinel_username"), query.Get("sentinel_password"))
	query.Del("sentinel_username")
	query.Del("sentinel_password")
	query.Set("master_name", master)
	query["addr"] = hosts[1:]
	u.RawQuery = query.Encode()
	o, err := redis.ParseFailoverURL(u.String())
	if err != nil {
		return nil, errRedisURL
	}
	if o.ReplicaOnly || o.RouteByLatency || o.RouteRandomly {
		return nil, errReplicaReads
	}
	o.ContextTimeoutEnabled = true
	o.DialTimeout = redisDialTimeout
	o.DialerRetries = 1
	return o, nil
}

// eachMaster looks at every server that takes writes: the one there is, or all of a Cluster, at once.
func eachMaster(ctx context.Context, client redis.UniversalClient, look func(context.Context, *redis.Client) error) error {
	if cluster, ok := client.(*redis.ClusterClient); ok {
		return cluster.ForEachMaster(ctx, look)
	}
	return look(ctx, client.(*redis.Client))
}
