"""Documents that people write and every edge has: keys, tenants, aliases."""
