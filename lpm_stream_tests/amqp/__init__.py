"""An AMQP 1.0 server on loopback that speaks the dialect of Azure Event Hubs, with faults on a script."""
