"""An iSCSI target with an embedded write splitter, and the appliance that gives back any moment in time."""
